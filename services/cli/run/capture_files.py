"""Capture files as they are given on the command line: looked at before anything is started."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from services.cli.errors import NotACaptureError
from services.cli.run.run_folder import RunFolder, run_folder
from services.cli.views.printable import printable

_MAGIC: Final = frozenset(
    {
        b"\xa1\xb2\xc3\xd4",  # pcap, microseconds
        b"\xd4\xc3\xb2\xa1",
        b"\xa1\xb2\x3c\x4d",  # pcap, nanoseconds
        b"\x4d\x3c\xb2\xa1",
        b"\xa1\xb2\xcd\x34",  # pcap as Kuznetzov's patch for Linux wrote it
        b"\x34\xcd\xb2\xa1",
        b"\x0a\x0d\x0d\x0a",  # pcapng
        b"\x28\xb5\x2f\xfd",  # zstd: what is in it, capture sees
    }
)
_GZIP: Final = b"\x1f\x8b"
_SEPARATOR: Final = ","
_STANDARD_INPUT: Final = Path("-")


def check_capture(path: Path) -> None:
    """Raise NotACaptureError, in one line, for a file that cannot be read, or begins as no capture and no gzip or zstd does."""
    magic = _magic(path)
    if not _begins_capture(magic):
        what = "empty" if not magic else "neither pcap nor pcapng, nor gzip or zstd of it"
        raise NotACaptureError(f"{printable(str(path))}: not a capture file ({what})")


def is_capture(path: Path) -> bool:
    """Whether a file begins as a capture does. Raises NotACaptureError where it cannot be read."""
    return _begins_capture(_magic(path))


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise NotACaptureError(f"{printable(str(path))}: cannot be read: {error.strerror}") from error


def _begins_capture(magic: bytes) -> bool:
    return magic in _MAGIC or magic.startswith(_GZIP)


@contextlib.contextmanager
def as_files(paths: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """Yield the paths, with files in the place of what can be read once only: `-`, standard input, and pipes.

    They hold what came until its end and are gone with the context, so that a capture that is started again finds it all. The
    first Ctrl-C while reading is for whoever writes (tcpdump then ends, and with it the input); a second one stops the command.
    """
    with contextlib.ExitStack() as stack:
        folder: RunFolder | None = None
        found = []
        for number, path in enumerate(paths):
            if path == _STANDARD_INPUT or (path.exists() and not path.is_file() and not path.is_dir()):
                folder = folder or stack.enter_context(run_folder())
                name = "stdin" if path == _STANDARD_INPUT else path.name
                (folder.path / str(number)).mkdir()
                found.append(_kept(path, folder.path / str(number) / name))
            else:
                found.append(path)
        yield tuple(found)


def _kept(path: Path, copy: Path) -> Path:
    def asked(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, asked)
    try:
        with copy.open("wb") as file:
            if path == _STANDARD_INPUT:
                shutil.copyfileobj(sys.stdin.buffer, file)
            else:
                with path.open("rb") as pipe:
                    shutil.copyfileobj(pipe, file)
    except OSError as error:
        raise NotACaptureError(f"{printable(str(path))}: cannot be read: {error.strerror}") from error
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        signal.signal(signal.SIGINT, before)
    return copy


def content_digest(paths: Sequence[Path]) -> str:
    """Return 16 hexadecimal digits that are the same for the same contents, in whatever order, and for nothing else."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, hashlib.blake2b).digest())
    return hashlib.blake2b(b"".join(sorted(digests)), digest_size=8).hexdigest()


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
