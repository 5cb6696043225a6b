"""Enricher: raw flow batches to batches that name the workloads at both ends."""
