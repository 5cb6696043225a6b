"""Capture: packets to raw flow batches on the bus."""
