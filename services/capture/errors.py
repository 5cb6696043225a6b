"""Errors of capture.

CaptureError
 └── CaptureFileError   a file that cannot be read as a capture
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class CaptureError(Exception):
    """Base of every error this package raises."""


class CaptureFileError(CaptureError):
    """`path` cannot be read as a capture; `detail` says why in words."""

    def __init__(self, path: Path, detail: str) -> None:
        self.path = path
        self.detail = detail
        super().__init__(f"{path_text(path)}: {detail}")


def path_text(path: Path | str) -> str:
    """Return a path, or a part of one, as text that can be sent and stored: bytes of it that are no UTF-8 are escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")
