"""An initramfs: files in the `newc` format, which the kernel unpacks into its first root.

Archives may follow one another; a later one's file replaces an earlier one's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path


class Archive:
    """Collects entries; `content` is the archive."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._folders = {""}
        self._number = 0

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file; its folders come before it."""
        self._add_folders(name)
        self._add(name, stat.S_IFREG | mode, content)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._add_folders(name)
        self._add(name, stat.S_IFLNK | 0o777, os.fsencode(target))

    def folder(self, name: str) -> None:
        """Add a folder, and those that hold it."""
        self._add_folders(f"{name}/")

    def device(self, name: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._add_folders(name)
        self._add(name, stat.S_IFCHR | 0o600, b"", (major, minor))

    def tree(self, root: Path, *, below: str = "") -> None:
        """Add every file and link of a folder."""
        for path in _walk(root):
            name = f"{below}{path.relative_to(root)}"
            if path.is_symlink():
                self.link(name, str(path.readlink()))
            elif path.is_dir():
                self.folder(name)
            else:
                self.file(name, path.read_bytes(), stat.S_IMODE(path.stat().st_mode))

    def content(self) -> bytes:
        """The archive, complete."""
        self._add("TRAILER!!!", 0, b"")
        return bytes(self._content)

    def _add_folders(self, name: str) -> None:
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in self._folders:
                self._folders.add(folder)
                self._add(folder, stat.S_IFDIR | 0o755, b"")

    def _add(self, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._number += 1
        path = os.fsencode(name) + b"\0"
        fields = (self._number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
        self._content += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._pad()
        self._content += content
        self._pad()

    def _pad(self) -> None:
        self._content += bytes(-len(self._content) % 4)


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders.sort()
        here = Path(folder)
        yield from (here / name for name in folders if (here / name).is_symlink() or not any((here / name).iterdir()))
        yield from (here / name for name in sorted(files))
