"""What tells one content of a file from the next, for files that others renew, as a kubelet does those of a Secret."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

Stamps: TypeAlias = tuple[tuple[int, int, int] | None, ...]


def stamps(files: Iterable[Path]) -> Stamps:
    """Return one for each file, None where it is not there. They change also where the link that leads to it is replaced."""
    return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
