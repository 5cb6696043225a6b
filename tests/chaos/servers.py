"""The NATS servers of a run, each on a machine whose disk can lose power, or be full."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.support.pipeline.nats_server import NatsServer, clustered
from tests.support.pipeline.power_cut import Disk

SYNC_SECONDS: Final = 1
STORE_MEGABYTES: Final = 96
"""The disk that a server's store is on."""


class Server:
    """One NATS server, and the machine that it is on."""

    def __init__(self, folder: Path, number: int, cluster_ports: list[int], program: Path | None) -> None:
        self.disk_folder = folder / f"machine-{number}"
        self._mounted = self.disk_folder / "store"
        self.disk: Disk | None = None
        self._program = program
        store = self.disk_folder / "machine" / "mount" if program else self._mounted
        self.nats = NatsServer(
            folder / f"nats-{number}",
            jetstream=f"sync_interval: {SYNC_SECONDS}s",
            store=store,
            extra_config=clustered(number, cluster_ports),
        )

    def set_up(self) -> None:
        """Mount what its store is on. Whatever becomes of that, `close` is to follow."""
        self.disk_folder.mkdir(parents=True)
        if has_disks():
            options = f"size={STORE_MEGABYTES}m"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.disk_folder], check=True)
        if self._program:
            self.disk = Disk(self._program, self.disk_folder / "machine")
            self.disk.power_on()

    def close(self) -> None:
        """Leave nothing of it mounted, and none of its processes, however far it was set up."""
        self.nats.kill()
        if self.nats.folder.exists():
            (self.nats.folder / "nats.log").write_text("\n".join(self.nats.log))
        if self.disk:
            self.disk.power_off()
        if self.disk_folder.is_mount():
            subprocess.run(["umount", "--lazy", self.disk_folder], check=True)

    def cut_power(self, written: Callable[[], bool] = lambda: False) -> None:
        """Lose what was not synced, but for files that were `written`; `restart` brings it back."""
        self.nats.kill()
        if self.disk:
            self.disk.power_off(written)

    def settle(self) -> None:
        """Have on the disk what was written some time ago, as Linux does within half a minute: nobody syncs the description of
        a stream that was just made.
        """
        if self.disk:
            self.disk.settle()

    def restart(self) -> None:
        """Start it where it does not run."""
        if self.disk:
            self.disk.power_on()
        with contextlib.suppress(RuntimeError):
            self.nats.start()

    def fill_disk(self) -> Path:
        """Leave no room on the disk; return the file that takes it."""
        ballast = self.disk_folder / "ballast"
        with ballast.open("wb") as file:
            free = shutil.disk_usage(self.disk_folder).free
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(1, free - 4096))
        return ballast


def has_disks() -> bool:
    """Whether servers can have disks of their own here, which can be full, or lose power."""
    return os.geteuid() == 0


def route(number: int, other: int) -> str:
    """Name of the link by which one server reaches another of its cluster."""
    return f"server-{number}/route-{other}"
