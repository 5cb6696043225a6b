"""Texts of others as a terminal may have them. Imports nothing: an error is said before anything is loaded."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return `text` with control characters escaped: names come from the network and must not command the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
