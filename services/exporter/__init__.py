"""Exporter: enriched flow batches to OTLP trace spans, acknowledged by the backend."""
