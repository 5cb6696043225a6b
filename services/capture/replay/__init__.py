"""Capture files: the engine's library behind a typed face, read to their end and published."""
