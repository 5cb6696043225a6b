"""Errors of the wire contract.

ProtoError
 └── DecodeError   bytes that are no batch of a schema this reader knows
"""

from __future__ import annotations


class ProtoError(Exception):
    """Base of every error this package raises."""


class DecodeError(ProtoError):
    """The bytes are no batch. The message says what is wrong and where; the cause, if any, is chained."""
