"""Memory of the exporter while its backend is down, and what becomes of the records: bounded, flat, and all there in the end.

    python -m tests.bench.exporter.bench_outage --seconds 600

Records come at a steady rate into a real nats-server; the backend's
port is closed. Then a backend opens it, and takes what has waited. A full stream refuses more, as it does in a cluster, where
capture then merges: those records are counted as refused by the stream, and are not lost by the exporter.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from proto.flow_batch import encode
from proto.subjects import ENRICHED_STREAM, enriched_subject
from services.runtime.nats.bus import Bus, StreamFullError, connect
from services.runtime.settings import NatsSettings
from tests.bench.exporter.bench_export import backend, kinds_of_batch
from tests.bench.harness import ROOT, processor_seconds
from tests.support.pipeline.nats_server import NatsServer
from tests.support.ports import free_port

ROWS = 200


@dataclass
class Account:
    """What was put on the bus and what the exporter weighed meanwhile."""

    stored: int = 0
    refused: int = 0
    resident: list[float] = field(default_factory=list)
    """MiB, once a second."""


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def load(bus: Bus, rate: int, seconds: float, pid: int, account: Account) -> None:
    """Publish at a steady rate, and weigh the exporter once a second."""
    kinds = kinds_of_batch(2 * ROWS)
    began, number, records = time.monotonic(), 0, 0
    while (elapsed := time.monotonic() - began) < seconds:
        if elapsed >= len(account.resident):
            account.resident.append(resident_mib(pid))
        if records > elapsed * rate:
            await asyncio.sleep(0.01)
            continue
        batch = kinds[number % len(kinds)]
        number, records = number + 1, records + batch.count
        message = encode(replace(batch, sequence=number))
        try:
            await bus.publish(enriched_subject(batch.node), message, message_id=str(number))
        except StreamFullError:
            account.refused += batch.count
        else:
            account.stored += batch.count


async def outage(nats_url: str, port: int, arguments: argparse.Namespace) -> Account:
    """Run the exporter without a backend, then with one; return the account once the stream is empty."""
    account = Account()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "WIRESPAN_"))}
    environ |= {"WIRESPAN_NATS_URL": nats_url, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    environ["WIRESPAN_LOG_LEVEL"] = "error"
    async with connect(NatsSettings(url=nats_url), name="bench") as bus:
        await bus.ensure_streams()
        exporter = subprocess.Popen([sys.executable, "-m", "services.exporter"], cwd=ROOT, env=environ)  # noqa: ASYNC220 - begins at once
        here, there = multiprocessing.get_context("spawn").Pipe()
        sink = multiprocessing.get_context("spawn").Process(target=backend, args=(there, port))
        try:
            await load(bus, arguments.rate, arguments.seconds, exporter.pid, account)
            used = processor_seconds(exporter.pid)
            sys.stdout.write(f"down: {describe(account)}, {used:.1f} processor seconds\n")
            sink.start()
            began = time.monotonic()
            while (await bus.stream_state(ENRICHED_STREAM)).messages:
                account.resident.append(resident_mib(exporter.pid))
                await asyncio.sleep(1)
            took = time.monotonic() - began
            sys.stdout.write(
                f"back: {account.stored:,} records taken in {took:.0f} s, at most {max(account.resident):.0f} MiB\n"
            )
            here.send(None)
        finally:
            exporter.terminate()
            exporter.wait()
            if sink.is_alive():
                sink.join()
    return account


def describe(account: Account) -> str:
    """The account in words: memory of the first and of the last quarter, past the first ten seconds of starting."""
    steady = account.resident[10:] or account.resident
    quarter = max(1, len(steady) // 4)
    first, last = (sum(part) / len(part) for part in (steady[:quarter], steady[-quarter:]))
    memory = f"resident {first:.1f} MiB in the first quarter, {last:.1f} in the last, {max(steady):.1f} at most"
    return f"{len(account.resident)} s, {account.stored:,} records stored, {account.refused:,} refused as it was full; {memory}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", type=int, default=20_000, help="records a second")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, NatsServer(Path(folder)) as server:
        asyncio.run(outage(server.url, free_port(), arguments))


if __name__ == "__main__":
    main()
