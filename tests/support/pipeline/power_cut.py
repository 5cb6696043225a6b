"""A disk for one test that loses power: what was not synced is gone (tests/support/power_cut says what that is)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class Disk:
    """A folder, `mount`, on a file system of its own. Needs root, and FUSE in the kernel."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._cache, self._disk, self.mount = (folder / name for name in ("cache", "disk", "mount"))
        self._disk.mkdir(parents=True)
        self.mount.mkdir()
        self._process: subprocess.Popen[str] | None = None

    def power_on(self) -> None:
        """Show what the disk has, where it does not."""
        if self._process is not None:
            return
        shutil.copytree(self._disk, self._cache)
        command = [self._program, self._cache, self._disk, self.mount]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "mounted\n":
            raise RuntimeError("the file system was not mounted")

    def settle(self) -> None:
        """Have all on the disk that is written by now, as Linux has it after half a minute, synced or not."""
        for path in filter(Path.is_file, self.mount.rglob("*")):
            with suppress(FileNotFoundError), path.open("rb") as file:  # a server that runs removes some meanwhile
                os.fsync(file)

    def power_off(self, written: Callable[[], bool] = lambda: False) -> None:
        """Lose what was not synced. Whoever has files open there is to be killed before, or sees errors.

        `written` says of one file after the other whether it was on the disk all the same: the kernel writes when it likes, and
        in any order. Where it was not mounted yet there is nothing to lose.
        """
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        if str(self.mount) in Path("/proc/self/mounts").read_text():  # whom nobody serves cannot be asked itself
            subprocess.run(["umount", "--lazy", self.mount], check=True)
        for path in filter(Path.is_file, self._cache.rglob("*")):
            there = self._disk / path.relative_to(self._cache)
            if there.exists() and written():
                shutil.copyfile(path, there)
        shutil.rmtree(self._cache)

    def __enter__(self) -> Self:
        self.power_on()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.power_off()
