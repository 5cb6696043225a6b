"""Files for their owner alone: what they hold says who talks to whom."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def refuse_planted_link(path: Path) -> None:
    """Raise PermissionError where `path` is a link that somebody else has put into a folder where anybody may.

    Kernels do so themselves where `fs.protected_symlinks` is set; containers and old hosts may have it off.
    """
    try:
        link, folder = os.lstat(path), path.parent.stat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(link.st_mode) and folder.st_mode & stat.S_IWOTH and link.st_uid not in {os.geteuid(), folder.st_uid}:
        raise PermissionError(errno.EACCES, "a link that another user has made", str(path))


def write_private(path: Path, text: str) -> None:
    """Write a file, its owner's alone, whole or not at all: what was there is replaced, a link too."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
