"""A capture without the packets that it has several times, for who compares conversations: by identification and hop limit."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

_FIELDS = (
    *("frame.number", "frame.time_epoch", "ip.ttl", "ip.id", "ip.src", "ip.dst", "ip.len"),
    *("tcp.srcport", "tcp.dstport", "tcp.seq_raw", "tcp.ack_raw"),
)
_SECONDS = Decimal("0.25")


def copied_frames(tshark: str, path: Path) -> list[str]:
    """Numbers of the frames whose packet came just before: under the same identification, or before a router's."""
    command = [tshark, "-r", str(path), "-Y", "ip && tcp", "-T", "fields", "-E", "occurrence=l"]
    for name in _FIELDS:
        command += ["-e", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seen: dict[tuple[str, ...], tuple[Decimal, str]] = {}
    copies = []
    for line in output.splitlines():
        number, time, hops, *packet = line.split("\t")
        before, hops_before = seen.get(tuple(packet), (Decimal(0), ""))
        if abs(Decimal(time) - before) < _SECONDS and (int(packet[0], 16) or hops != hops_before):
            copies.append(number)
        else:
            seen[tuple(packet)] = Decimal(time), hops
    return copies


@contextlib.contextmanager
def without_copies(tshark: str, path: Path) -> Iterator[Path]:
    """Yield the capture, or where it has copies one that editcap made without them."""
    copies = copied_frames(tshark, path)
    editcap = shutil.which("editcap")
    if not copies or editcap is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        single = Path(folder, "single.pcapng")
        subprocess.run([editcap, path, single, *copies], check=True, capture_output=True)
        yield single
