"""Errors of capture.

CaptureError
 └── CaptureFileError   a file that cannot be read as a capture
"""

from __future__ import annotations

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
        super().__init__(f"{path}: {detail}")
