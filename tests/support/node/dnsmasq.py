"""Debian's dnsmasq as a test's own resolver: it stays in the foreground, reads nothing of the machine, and asks nobody."""

from __future__ import annotations

from typing import Final

COMMAND: Final = (
    *("dnsmasq", "--keep-in-foreground", "--user=root", "--pid-file"),
    *("--no-resolv", "--no-hosts", "--conf-file=/dev/null"),
)
"""What it knows, and where it listens, is behind that: --address, --host-record, --port and the like."""
