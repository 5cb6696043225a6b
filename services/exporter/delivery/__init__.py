"""The ways out, and what follows on each answer: OTLP over gRPC and HTTP, and files."""
