"""What is kept between runs: one folder for each thing, complete or not there, renewed when it is old and can be had."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.support.vm.debian import ArchiveUnavailableError

_STALE_SECONDS: Final = 30 * 86_400


def cache_folder() -> Path:
    """The folder of everything cached; it need not exist."""
    configured = os.environ.get("WIRESPAN_KERNELS_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "wirespan-kernels"


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder of this name, made by `build(folder)` where it is missing or older than a month.

    One process builds, others wait. What is old is kept where the archive does not answer. Raises ArchiveUnavailableError.
    """
    root = cache_folder()
    root.mkdir(parents=True, exist_ok=True)
    folder = root / name
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists() and time.time() - folder.stat().st_mtime < _STALE_SECONDS:
            return folder
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-") as scratch:
            made = Path(scratch, "made")
            made.mkdir()
            try:
                build(made)
            except ArchiveUnavailableError:
                if folder.exists():
                    return folder
                raise
            if folder.exists():
                shutil.move(folder, Path(scratch, "old"))
            made.touch()
            made.rename(folder)
    return folder
