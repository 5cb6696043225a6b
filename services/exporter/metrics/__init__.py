"""Metrics of the flows, made of the same columns as the spans and of every record, whatever becomes of its span."""
