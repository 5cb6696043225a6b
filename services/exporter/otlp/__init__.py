"""Spans as OTLP's bytes, from columns. Knows no transport."""
