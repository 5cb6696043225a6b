"""Capture files as the library reads them: a descriptor each, which gives the plain bytes of what gzip or zstd compressed."""

from __future__ import annotations

import gzip
import os
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, cast

from services.capture.errors import CaptureFileError

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_CHUNK_BYTES: Final = 1 << 18


class PlainBytes:
    """A capture file that is open, compressed or not. Raises CaptureFileError where there is no file, or it cannot be opened.

    What is compressed is unpacked by a thread of its own into a pipe, so that nothing of it is ever stored.
    """

    def __init__(self, path: Path) -> None:
        try:
            if not path.is_file():
                raise CaptureFileError(path, "not a regular file" if path.exists() else "No such file or directory")
            self._file: IO[bytes] = path.open("rb", buffering=0)
            magic = self._file.read(len(_ZSTD))
            self._file.seek(0)
        except OSError as fault:
            raise CaptureFileError(path, fault.strerror or str(fault)) from fault
        self.size: int = path.stat().st_size
        """Of the file as it lies there."""
        self.fault: str | None = None
        """Why its compressed bytes ended before their end, once reading has come there."""
        self._thread: threading.Thread | None = None
        unpack = _gzip if magic.startswith(_GZIP) else _zstd if magic == _ZSTD else None
        if unpack is None:
            return
        self._reader, writer = os.pipe()
        self._thread = threading.Thread(target=self._unpack, args=(unpack, writer), name="unpack", daemon=True)
        self._thread.start()

    def descriptor(self) -> int:
        """Return where the plain bytes are read; to be asked for once, and closed by who asks."""
        return os.dup(self._file.fileno()) if self._thread is None else self._reader

    def position(self, plain_bytes: int) -> int:
        """Return how far into the file reading is, of which `plain_bytes` were read."""
        if self._thread is None:
            return min(plain_bytes, self.size)
        return self.size if self._file.closed else min(self._file.tell(), self.size)

    def close(self) -> None:
        """Wait for the thread, whose reader must have been closed, and close the file. May be called again."""
        if self._thread is not None:
            self._thread.join()
        self._file.close()

    def _unpack(self, unpack: Callable[[IO[bytes]], IO[bytes]], writer: int) -> None:
        try:
            with os.fdopen(writer, "wb", buffering=0) as plain, unpack(self._file) as packed:
                while chunk := packed.read(_CHUNK_BYTES):
                    written = 0
                    while written < len(chunk):
                        written += plain.write(chunk[written:])
        except BrokenPipeError:
            return  # nobody wants the rest
        except (EOFError, OSError, ValueError, zlib.error) as fault:
            self.fault = _said(fault)
        except Exception as fault:  # noqa: BLE001 - the module whose error it is was imported where it is used
            self.fault = _said(fault)


def _said(fault: Exception) -> str:
    return f"its compressed bytes cannot be read to their end: {fault}"


def _gzip(file: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", gzip.GzipFile(fileobj=file))


def _zstd(file: IO[bytes]) -> IO[bytes]:
    # Few captures are compressed so, and live capture reads none.
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415
    else:
        from backports import zstd  # noqa: PLC0415
    return cast("IO[bytes]", zstd.ZstdFile(file))
