"""Errors of the enricher.

EnricherError
 └── SnapshotError   a file that should be a snapshot of a cluster and is not
"""

from __future__ import annotations

from pathlib import Path


class EnricherError(Exception):
    """Base of every error this package raises."""


class SnapshotError(EnricherError):
    """The file is no snapshot of a cluster. `str()` is one line that names the file and says why."""

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail
