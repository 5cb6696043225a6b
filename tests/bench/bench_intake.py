"""Intake: processor time for each span of 1 KiB, beside protobuf's classes; and what the join has of its process meanwhile.

    python -m tests.bench.bench_intake [seconds of each round of the second and third part]

First one thread alone: requests of 512 spans to messages for captures, with a cluster of 10,000 pods; the baseline reads the
same of them with OpenTelemetry's classes. Then a process joins batches of 1,000 records in its event loop while two senders
send spans as fast as they are answered: to an intake of the same process, and, as the baseline, to another's. Records are those
of a processor second of the event loop's thread, which takes the requests as well. At last they send 20,000 spans a second,
and what is measured is the processor time that the process has for each.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from proto.flow_batch import encode
from proto.subjects import MAX_BATCH_BYTES
from services.enricher.index.index import Index
from services.enricher.index.source import FixedIndex
from services.enricher.intake.counts import IntakeCounts
from services.enricher.intake.door import Waiting
from services.enricher.intake.intake import Intake
from services.enricher.intake.locals import Locals
from services.enricher.intake.names import NamesSeen
from services.enricher.intake.peers import Peers
from services.enricher.intake.questions import Questions
from services.enricher.intake.scan import count_spans, scan
from services.enricher.settings import EnricherSettings
from services.runtime.nats.bus import Bus, connect
from services.runtime.settings import NatsSettings
from services.runtime.telemetry import Telemetry
from tests.bench.enricher.bench_join import make_batch, make_cluster, show, stage
from tests.bench.harness import quiet_logs
from tests.support.otlp_requests import key_values, request, span, typical
from tests.support.pipeline.nats_server import NatsServer
from tests.support.ports import free_port

SPANS = 512
ROUNDS = 60
RATE, TURNS = 20_000, 7
ASKED = "unheard"
"""What spans are counted as that are asked about: no capture listens here."""
SENDER = """
import sys, time
sys.path.insert(0, {root!r})
from tests.support.otlp_requests import typical
protocol, port, rest = sys.argv[1], sys.argv[2], float(sys.argv[3])
body = typical({spans}, start=time.time_ns(), pod_uid="pod-7")
if protocol == "grpc":
    import grpc
    path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    export = grpc.insecure_channel("127.0.0.1:" + port).unary_unary(path)
    send = lambda: export(body)
else:
    import http.client
    connection = http.client.HTTPConnection("127.0.0.1", int(port))
    def send():
        connection.request("POST", "/v1/traces", body, {{"content-type": "application/x-protobuf"}})
        connection.getresponse().read()
send()
print("sending", flush=True)
begun, count = time.monotonic(), 0
while True:
    send()
    count += 1
    time.sleep(max(begun + count * rest - time.monotonic(), 0))
"""
ELSEWHERE = """
import asyncio, sys
sys.path.insert(0, {root!r})
from tests.bench.bench_intake import elsewhere
asyncio.run(elsewhere(*sys.argv[1:]))
"""
ROOT = str(Path(__file__).parents[2])


def best(run: Callable[[], object]) -> float:
    """The least processor time of many rounds, in microseconds for each span."""
    least = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time_ns()
        run()
        least = min(least, time.process_time_ns() - started)
    return least / SPANS / 1000


def by_classes(body: bytes) -> list[tuple[Any, ...]]:
    """The baseline: ids, kind, times and attributes of each span, by OpenTelemetry's classes."""
    found: list[tuple[Any, ...]] = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in resource.scope_spans:
            for each in scope.spans:
                attributes = {one.key: one.value.string_value or one.value.int_value for one in each.attributes}
                peer = attributes.get("network.peer.address") or attributes.get("server.address")
                times = (each.start_time_unix_nano, each.end_time_unix_nano)
                found.append((each.trace_id, each.span_id, each.kind, *times, peer, attributes.get("server.port")))
    return found


def by_service(now: int) -> bytes:
    """Spans that name a Service of few endpoints, as a literal address is the exception with databases."""
    spans = [span(number, start=now, end=now + 1_000_000) for number in range(1, SPANS + 1)]
    for made in spans:
        made.attributes.extend(key_values({"server.address": "app-7.shop", "db.system.name": "redis", "note": "x" * 860}))
    return request(spans, k8s__pod__uid="pod-7")


def alone(index: Index) -> None:
    """Print what a span costs the intake's thread."""
    now = time.time_ns()
    for name, body in (("the peer is an address", typical(SPANS, start=now, pod_uid="pod-7")), ("a Service", by_service(now))):
        counts = IntakeCounts(Telemetry("bench"))
        questions = Questions(counts, Locals(this_host="x"), Peers(NamesSeen()))
        made: list[tuple[str, int, int, bytes]] = []

        def ask(body: bytes = body, questions: Questions = questions, made: list = made) -> None:
            questions.add(Waiting(body, SPANS, ""), index, now)
            made[:] = questions.messages(MAX_BATCH_BYTES)

        parsed = best(lambda body=body: by_classes(body))
        counted, scanned, asked = (
            best(lambda body=body: count_spans(body)),
            best(lambda body=body: scan(body, SPANS)),
            best(ask),
        )
        size, rows = sum(len(message) for *_, message in made), sum(rows for _, _, rows, _ in made)
        show(f"\n{len(body) / SPANS:.0f} bytes a span, {name}: us a span, ratio to protobuf's classes, spans/s of a core")
        for what, value in (
            ("protobuf's classes", parsed),
            ("counted, to answer", counted),
            ("read as rows", scanned),
            ("read, resolved, asked", asked),
        ):
            show(f"  {what:44}{value:8.3f} {parsed / value:7.1f}x {1e6 / value:12,.0f}")
        show(f"  questions: {size / SPANS:.1f} bytes and {rows / SPANS:.2f} rows a span")


async def elsewhere(url: str, grpc_port: str, http_port: str) -> None:
    """An intake in a process of its own."""
    index = make_cluster().compile()
    async with connect(NatsSettings(url=url), name="elsewhere") as bus, opened(bus, index, int(grpc_port), int(http_port)):
        await asyncio.sleep(600)


@asynccontextmanager
async def opened(bus: Bus, index: Index, grpc_port: int, http_port: int) -> AsyncIterator[Intake]:
    """An intake at work."""
    settings = EnricherSettings(intake=True, intake_grpc_port=grpc_port, intake_http_port=http_port)
    await bus.wait_connected()
    stopping = asyncio.Event()
    intake = Intake(settings, FixedIndex(index), bus, Telemetry("bench"))
    async with intake.open():
        running = asyncio.create_task(intake.run(stopping))
        yield intake
        stopping.set()
        await running


async def beside_the_join(index: Index, seconds: float, url: str) -> None:
    """Print how the join fares while senders send."""
    message = encode(make_batch(1000, random.Random(7), 300))
    ports = {"grpc": (free_port(), free_port()), "http": (free_port(), free_port())}
    others = [str(ports[protocol][1]) for protocol in ("grpc", "http")]
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", ELSEWHERE.format(root=ROOT), url, *others)
    try:
        async with (
            connect(NatsSettings(url=url), name="bench") as bus,
            opened(bus, index, ports["grpc"][0], ports["http"][0]) as intake,
        ):
            await listens(int(others[1]))
            for protocol, (here, there) in ports.items():
                show(f"\n{protocol}: records joined, spans to another process, to this one; spans/s asked about, passed over")
                for _ in range(3):
                    idle, *_ = await sending(protocol, there, joined, message, index, seconds, intake)
                    busy, asked, over = await sending(protocol, here, joined, message, index, seconds, intake)
                    show(f"  {idle:10,.0f} {busy:10,.0f} ({busy / idle:.0%}) {asked:10,.0f} {over:10,.0f}")
            for protocol, (here, there) in ports.items():
                await at_a_rate(protocol, (here, there), message, index, seconds, intake)
    finally:
        child.kill()
        await child.wait()


async def at_a_rate(  # noqa: PLR0917 - what there is
    protocol: str, ports: tuple[int, int], message: bytes, index: Index, seconds: float, intake: Intake
) -> None:
    """Print what a span costs the process where senders keep to a rate, beside a join as fast as it can be and without one.

    What a record costs is taken turn by turn, while the same spans go to another process.
    """
    rest = 2 * SPANS / RATE
    beside, alone, rates = [], [], []
    for _ in range(TURNS):
        used, batches, _ = await sending(protocol, ports[1], taken, message, index, seconds, intake, rest=rest)
        a_batch = used / batches
        used, batches, spans = await sending(protocol, ports[0], taken, message, index, seconds, intake, rest=rest)
        beside.append(1e6 * (used - batches * a_batch) / spans)
        used, _, spans = await sending(protocol, ports[0], taken, b"", index, seconds, intake, rest=rest)
        alone.append(1e6 * used / spans)
        rates.append(spans / seconds)
    show(f"\n{protocol}: processor time of a span, us: median, least, most; of the join, at {RATE:,} spans a second")
    for what, each in (("beside the join", beside), ("without it", alone)):
        median = statistics.median(each)
        show(f"  {what:20}{median:8.2f} {min(each):8.2f} {max(each):8.2f} {RATE * median / 1e6:8.1%}")
    show(f"  spans a second that were asked about, without it: {statistics.median(rates):,.0f}")


async def listens(port: int) -> None:
    """Return once somebody listens there."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.2)
        else:
            writer.close()
            return


async def sending(protocol: str, port: int, measured: Callable[..., Awaitable[Any]], *arguments: Any, rest: float = 0) -> Any:
    """Measure while two senders send there, each a request every `rest` seconds."""
    code = SENDER.format(root=ROOT, spans=SPANS)
    command = [sys.executable, "-c", code, protocol, str(port), str(rest)]
    senders = [await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE) for _ in range(2)]
    try:
        for sender in senders:
            assert sender.stdout is not None
            await sender.stdout.readline()  # when it has made what it sends
        return await measured(*arguments)
    finally:
        for sender in senders:
            sender.kill()
            await sender.wait()


async def taken(message: bytes, index: Index, seconds: float, intake: Intake) -> tuple[float, int, int]:
    """Join for so long, or just wait where there is no message.

    Returns the processor time of the process, batches, and spans asked about.
    """
    before = intake.counts.spans.total[ASKED]
    batches, started, used = 0, time.monotonic(), time.process_time()
    while time.monotonic() < started + seconds:
        if message:
            stage(message, index)
        batches += 1
        await asyncio.sleep(0 if message else 0.05)
    return time.process_time() - used, batches, intake.counts.spans.total[ASKED] - before


async def joined(message: bytes, index: Index, seconds: float, intake: Intake) -> tuple[float, float, float]:
    """Join for so long; returns records a processor second, spans asked about and spans passed over a second."""
    before = dict(intake.counts.spans.total)
    batches, started, used = 0, time.monotonic(), time.thread_time()
    while time.monotonic() < started + seconds:
        stage(message, index)
        batches += 1
        await asyncio.sleep(0.002)
    took = time.monotonic() - started
    asked, over = (intake.counts.spans.total[name] - before.get(name, 0) for name in (ASKED, "queue_full"))
    return batches * 1000 / (time.thread_time() - used), asked / took, over / took


def main() -> None:
    """Measure both."""
    quiet_logs()
    index = make_cluster().compile()
    alone(index)
    with tempfile.TemporaryDirectory() as folder, NatsServer(Path(folder)) as server:
        asyncio.run(beside_the_join(index, float(sys.argv[1]) if len(sys.argv) > 1 else 4, server.url))


if __name__ == "__main__":
    main()
