"""NATS JetStream as Wirespan uses it; the only place that knows its client."""
