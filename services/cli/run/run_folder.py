"""The temporary folder of one run: the bus's store, the services' logs, the progress file. Only its owner can read it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PREFIX: Final = "wirespan-"
_LOCK: Final = "lock"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths within the folder."""

    path: Path

    @property
    def store(self) -> Path:
        """Where the embedded bus keeps its streams."""
        return self.path / "store"

    @property
    def progress(self) -> Path:
        """What capture says of its progress."""
        return self.path / "progress.json"

    @property
    def bus(self) -> Path:
        """Where the run's own bus can be reached, for other commands of the same user."""
        return self.path / "bus.json"

    def log(self, name: str) -> Path:
        """What the process `name` printed."""
        return self.path / f"{name}.log"


@contextlib.contextmanager
def run_folder() -> Iterator[RunFolder]:
    """Make a folder for this run and remove it at the end; also those of runs that were killed before they could."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    path = Path(tempfile.mkdtemp(prefix=_PREFIX))  # mode 0700
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield RunFolder(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def running() -> list[RunFolder]:
    """Return the folders of this user's runs that live, the newest first."""
    found = []
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and _is_locked(path / _LOCK):
                found.append((status.st_mtime_ns, path))
    return [RunFolder(path) for _, path in sorted(found, reverse=True)]


def _is_locked(path: Path) -> bool:
    lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # Shared, for a moment: whoever else looks whether the run lives is not told that it does.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _remove_abandoned(parent: Path) -> None:
    """A run holds its folder's lock for as long as it lives: one that can be locked belongs to nobody.

    A folder without a lock file is being made at this moment, or is none of ours.
    """
    for path in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or path.stat().st_uid != os.getuid():
                continue
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
