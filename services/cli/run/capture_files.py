"""Capture files as they are given on the command line: looked at before anything is started."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from services.cli.errors import NotACaptureError
from services.cli.views.flow_view import printable

_MAGIC: Final = frozenset(
    {
        b"\xa1\xb2\xc3\xd4",  # pcap, microseconds
        b"\xd4\xc3\xb2\xa1",
        b"\xa1\xb2\x3c\x4d",  # pcap, nanoseconds
        b"\x4d\x3c\xb2\xa1",
        b"\xa1\xb2\xcd\x34",  # pcap as Kuznetzov's patch for Linux wrote it
        b"\x34\xcd\xb2\xa1",
        b"\x0a\x0d\x0d\x0a",  # pcapng
    }
)
_SEPARATOR: Final = ","


def check_capture(path: Path) -> None:
    """Raise NotACaptureError, in one line, for a file that cannot be read or does not begin as pcap or pcapng does."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise NotACaptureError(f"{printable(str(path))}: cannot be read: {error.strerror}") from error
    if magic not in _MAGIC:
        what = "empty" if not magic else "neither pcap nor pcapng"
        raise NotACaptureError(f"{printable(str(path))}: not a capture file ({what})")


def content_digest(paths: Sequence[Path]) -> str:
    """Return 16 hexadecimal digits that are the same for the same contents in the same order, and for nothing else."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, hashlib.blake2b).digest())
    return digest.hexdigest()


def as_setting(paths: Sequence[Path], folder: Path) -> str:
    """Return the paths as one comma-separated setting; one that this would change gets a link in `folder` that it does not."""
    return _SEPARATOR.join(_plain(path.absolute(), folder, number) for number, path in enumerate(paths))


def _plain(path: Path, folder: Path, number: int) -> str:
    text = str(path)
    if _SEPARATOR not in text and text == text.strip():
        return text
    link = folder / f"capture-{number}"
    link.symlink_to(path)
    return str(link)
