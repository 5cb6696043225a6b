"""Where the page listens: known before anything is started, since a capture of this machine leaves that port out."""

from __future__ import annotations

import socket
from typing import Final

from services.cli.errors import UsageError

DEFAULT_PORT: Final = 4280


def listener(address: str, port: int | None) -> socket.socket:
    """Return a socket that listens there; without a port on the usual one, or any that is free. Raises UsageError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    wanted = DEFAULT_PORT if port is None else port
    try:
        return socket.create_server((address, wanted), family=family)
    except OSError as error:
        if port is not None:
            raise UsageError(f"the page cannot listen on {address}, port {port}: {error.strerror or error}") from error
    return listener(address, 0)
