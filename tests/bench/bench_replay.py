"""Packets per second of replay, beside a bare libpcap read loop and `tshark -q -z conv,tcp` on the same file.

    python -m tests.bench.bench_replay [--packets N]

One core each, least of three runs. Replay is read, parse, flow table and drained records, without encoding or the bus.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from services.capture.flows.exchange_table import ExchangeTable
from services.capture.flows.table import Emission, FlowTable
from services.capture.replay.replaying import replay
from services.capture.replay.source import ReplaySource
from tests.support.packets.pcap import ACK, FIN, PSH, Conversation

RUNS = 3
TRACED = (b"GET /cart HTTP/1.1\r\nHost: cart\r\ntraceparent: 00-" + b"4b" * 16 + b"-" + b"f0" * 8 + b"-01\r\nX: ").ljust(
    296, b"x"
)
TRACED += b"\r\n\r\n"
"""Every fourth packet of a capture of such requests begins an exchange."""
READ_LOOP = """
#include <pcap/pcap.h>
int main(int count, char **paths) {
    char error[PCAP_ERRBUF_SIZE];
    pcap_t *file = pcap_open_offline(paths[count - 1], error);
    struct pcap_pkthdr *header;
    const unsigned char *bytes;
    unsigned long long sum = 0;
    while (pcap_next_ex(file, &header, &bytes) == 1)
        sum += header->len + bytes[0];
    return sum == 0;
}
"""


def capture(path: Path, packets: int, asked: bytes = bytes(100)) -> int:
    """Connections of 24 packets each, 64 at a time, with these requests; returns how many packets were written."""
    written = 0
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
        group = 0
        while written < packets:
            talks = [_talk(group * 64 + number, asked) for number in range(64)]
            for step in range(len(talks[0].frames)):
                for talk in talks:
                    data = talk.frames[step].data
                    file.write(struct.pack("<IIII", 1_700_000_000 + group, step * 1_000_000, len(data), len(data)) + data)
                    written += 1
            group += 1
    return written


def _talk(number: int, asked: bytes) -> Conversation:
    client = f"10.{number >> 14 & 255}.{number >> 7 & 127}.{1 + (number & 127)}"
    talk = Conversation(client, client_port=32768 + number % 20000).handshake()
    for exchange in range(6):
        at = exchange * len(asked)
        talk.tcp(1, "client", PSH | ACK, seq=1001 + at, ack=5001 + exchange * 1000, payload=asked)
        talk.tcp(1, "server", PSH | ACK, seq=5001 + exchange * 1000, ack=1001 + len(asked) + at, payload=bytes(1000))
        talk.tcp(1, "client", ACK, seq=1001 + len(asked) + at, ack=6001 + exchange * 1000)
    end = 1001 + 6 * len(asked)
    talk.tcp(2, "client", FIN | ACK, seq=end, ack=11001).tcp(2, "server", FIN | ACK, seq=11001, ack=end + 1)
    return talk.tcp(2, "client", ACK, seq=end + 1, ack=11002)


def own(path: Path, *, trace_context: bool = False) -> None:
    """Replay the file and take every record."""
    with ReplaySource([path], trace_context=trace_context) as source:
        table = FlowTable(source)
        for emission in replay(source, table, exchanges=ExchangeTable(source) if trace_context else None):
            if isinstance(emission, Emission):
                table.accept(emission)


def seconds(action: Callable[[], object], who: int) -> float:
    """Least CPU time of the runs."""
    found = []
    for _ in range(RUNS):
        before = resource.getrusage(who)
        action()
        after = resource.getrusage(who)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def main() -> None:
    """Print a line each."""
    parser = argparse.ArgumentParser(description="speed of replay")
    parser.add_argument("--packets", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, loop = Path(folder, "packets.pcap"), Path(folder, "loop")
        packets = capture(path, arguments.packets)
        source = loop.with_suffix(".c")
        source.write_text(READ_LOOP)
        subprocess.run(["cc", "-O2", "-o", loop, source, "-lpcap"], check=True)
        figures = {"libpcap read loop": seconds(lambda: subprocess.run([loop, path], check=True), resource.RUSAGE_CHILDREN)}
        figures["wirespan replay"] = seconds(lambda: own(path), resource.RUSAGE_SELF)
        figures["  trace contexts"] = seconds(lambda: own(path, trace_context=True), resource.RUSAGE_SELF)
        traced = Path(folder, "traced.pcap")
        capture(traced, arguments.packets, TRACED)
        figures["  traced, ignored"] = seconds(lambda: own(traced), resource.RUSAGE_SELF)
        figures["  traced, told"] = seconds(lambda: own(traced, trace_context=True), resource.RUSAGE_SELF)
        if tshark := shutil.which("tshark"):
            command = [tshark, "-n", "-q", "-r", path, "-z", "conv,tcp"]
            figures["tshark conv,tcp"] = seconds(
                lambda: subprocess.run(command, check=True, capture_output=True), resource.RUSAGE_CHILDREN
            )
    base = figures["libpcap read loop"]
    for name, taken in figures.items():
        sys.stdout.write(
            f"{name:18} {packets / taken / 1e6:8.2f} million packets/s  {taken / base:8.2f} x the read loop's time\n"
        )


if __name__ == "__main__":
    main()
