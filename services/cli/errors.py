"""Errors of the command line. Each is shown as one line on stderr and ends the command with its exit status.

CliError                  1  something failed
 ├── UsageError           2  what was asked for cannot be done as asked
 ├── NotACaptureError     3  a file is no capture file
 ├── NobodyReadsError     1  the reader of standard output is gone
 └── ServiceFailedError   1  a service keeps ending, or cannot start
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class CliError(Exception):
    """Base of every error the commands end with; the message is what a person reads."""

    exit_status: ClassVar[int] = 1
    notes: Sequence[str] = ()
    """Lines that go with the message, such as what a service said last."""


class UsageError(CliError):
    """An option or a file that cannot be used as asked."""

    exit_status = 2


class NotACaptureError(CliError):
    """A file that is no pcap or pcapng file."""

    exit_status = 3


class NobodyReadsError(CliError):
    """Whoever read standard output has enough, as `head` has: an end without a word."""

    def __init__(self) -> None:
        super().__init__("")


class ServiceFailedError(CliError):
    """A service ended and will not be started again."""

    def __init__(self, service: str, exit_code: int, detail: str) -> None:
        super().__init__(f"{service} {detail}")
        self.service = service
        self.exit_code = exit_code
