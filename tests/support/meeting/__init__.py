"""Spans and exchanges whose truth is known."""
