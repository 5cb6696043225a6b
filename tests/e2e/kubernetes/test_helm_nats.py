"""The chart's NATS for real: the rendered nats.conf in a nats-server, the services with the rendered environment, and each user
with what it may and may not do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest

from proto.subjects import (
    CACHE_BELL_SUBJECTS,
    CACHE_LOG_SUBJECT,
    CACHE_PULSE_SUBJECT,
    CACHE_STREAM,
    DEAD_STREAM,
    ENRICHED_STREAM,
    ENRICHER_DURABLE,
    RAW_STREAM,
)
from services.runtime.errors import ApiError
from services.runtime.nats.bus import Bus, connect
from services.runtime.nats.standing import CONSUMERS
from tests.e2e.conftest import CAPTURE, ROOT, SNAPSHOT, WIRESPAN
from tests.support.kubernetes.helm_chart import MATRIX, merged, render
from tests.support.kubernetes.helm_nats import NODE, RenderedNats, plain_client, running
from tests.support.pipeline.otlp_receiver import OtlpReceiver
from tests.support.pipeline.watched import nobody_failed, watched
from tests.support.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the first to ask for a tool may build it

OTHER_NODE = "node-a"
PATIENCE_SECONDS = 300


@contextlib.contextmanager
def service(bus: RenderedNats, component: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A service with the rendered environment and nothing else of Wirespan's; its log is shown where a test fails."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("WIRESPAN_", "OTEL_", "KUBE"))}
    environ |= bus.environment(component) | {"PYTHONPATH": str(ROOT)} | more
    log = bus.folder / f"{component}.log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", f"services.{component}"], env=environ, stderr=output, cwd=ROOT)
    try:
        with watched(process, log):
            yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)
        sys.stdout.write(f"--- {component}\n{log.read_text()[-3000:]}\n")


WORKING = ("defaults", "a user for each node", "three servers", "three servers without TLS or volumes")


@pytest.mark.parametrize("name", WORKING)
async def test_flows_pass_under_the_rendered_users(helm_binary: Path, tmp_path: Path, name: str) -> None:
    """With the chart's nats.conf, certificates, users and environment a replay ends as spans; the toolbox sees it."""
    with OtlpReceiver() as receiver:
        values = merged(MATRIX[name], {"otlp": {"endpoint": receiver.grpc_endpoint}, "toolbox": {"enabled": True}})
        rendered = render(helm_binary, values)
        ports = dict(zip(("capture", "enricher", "exporter"), map(str, free_ports(3)), strict=True))
        health = {component: {"WIRESPAN_HEALTH_PORT": port} for component, port in ports.items()}
        with (
            running(rendered, tmp_path) as bus,
            service(bus, "enricher", WIRESPAN_ENRICHER_KUBE_SNAPSHOT=str(SNAPSHOT), **health["enricher"]),
            service(bus, "exporter", **health["exporter"]),
            service(bus, "capture", WIRESPAN_CAPTURE_REPLAY_FILES=str(CAPTURE), **health["capture"]) as capture,
        ):
            async with connect(bus.settings("toolbox"), name="test") as reader:
                status = await asyncio.to_thread(capture.wait, PATIENCE_SECONDS)
                assert status == 0
                assert receiver.spans or await becomes(lambda: bool(receiver.spans))
                assert await empties(reader)
                assert (await reader.stream_state(DEAD_STREAM)).messages == 0
                looked_back = await asyncio.to_thread(wirespan, bus.environment("toolbox"), "tap", "--last", "3", "-o", "json")
                assert len(looked_back.stdout.splitlines()) == 3, looked_back.stderr


def wirespan(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in the toolbox."""
    environ = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **environ}
    command = [*WIRESPAN, *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


async def empties(reader: Bus) -> bool:
    """Whether both queues run dry."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        states = [await reader.stream_state(stream) for stream in (RAW_STREAM, ENRICHED_STREAM)]
        if all(state.last_sequence and not state.messages for state in states):
            return True
        nobody_failed()
        await asyncio.sleep(0.1)
    return False


async def becomes(condition: Any) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and not condition():
        nobody_failed()
        await asyncio.sleep(0.05)
    return bool(condition())


@pytest.fixture(scope="module")
def nats_of_nodes(helm_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RenderedNats]:
    """The chart's NATS with a user for each of two nodes."""
    values = merged(MATRIX["a user for each node"], {"toolbox": {"enabled": True}})
    with running(render(helm_binary, values), tmp_path_factory.mktemp("nodes")) as bus:
        yield bus


@pytest.fixture(scope="module")
def nats_of_one(helm_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RenderedNats]:
    """The chart's NATS with one user for all nodes."""
    with running(render(helm_binary, {"toolbox": {"enabled": True}}), tmp_path_factory.mktemp("one")) as bus:
        yield bus


STREAM_POWERS = (
    "$JS.API.STREAM.DELETE.FLOWS_RAW",
    "$JS.API.STREAM.PURGE.FLOWS_RAW",
    "$JS.API.STREAM.MSG.DELETE.FLOWS_RAW",
    "$JS.API.STREAM.CREATE.OTHER",
    "$JS.API.CONSUMER.CREATE.FLOWS_RAW.spy",
    "$SYS.REQ.SERVER.PING",
)
DELETING = ("$JS.API.CONSUMER.DELETE.FLOWS_RAW.enricher", "$JS.API.CONSUMER.DELETE.FLOWS_ENRICHED.exporter")
READING = ("$JS.API.DIRECT.GET.FLOWS_RAW", "$JS.API.STREAM.MSG.GET.FLOWS_RAW")
PULLING = ("$JS.API.CONSUMER.MSG.NEXT.FLOWS_RAW.enricher", "$JS.API.CONSUMER.MSG.NEXT.FLOWS_ENRICHED.exporter")
MAY_NOT_PUBLISH = {
    "capture": (
        *("flows.enriched.node-a", "flows.dead.capture", "flows.raw.a.b", "kube.cache.log", "$JS.API.STREAM.CREATE.FLOWS_RAW"),
        *(*STREAM_POWERS, *DELETING, *READING, *PULLING, "$JS.ACK.FLOWS_RAW.enricher.1.1.1.1.0"),
    ),
    "enricher": (
        *("flows.raw.node-a", "flows.dead.exporter", *STREAM_POWERS, *READING, PULLING[1]),
        "$JS.ACK.FLOWS_ENRICHED.exporter.1.1.1.1.0",
    ),
    "exporter": (
        *(
            "flows.raw.node-a",
            "flows.enriched.node-a",
            "flows.dead.enricher",
            "kube.cache.log",
            *STREAM_POWERS,
            *DELETING,
            *READING,
            PULLING[0],
        ),
        *("$JS.API.STREAM.CREATE.FLOWS_RAW", "$JS.API.STREAM.UPDATE.FLOWS_RAW", "$JS.ACK.FLOWS_RAW.enricher.1.1.1.1.0"),
    ),
    "toolbox": (
        *("flows.raw.node-a", "flows.enriched.node-a", "flows.dead.reader", "kube.cache.log", *STREAM_POWERS, *DELETING),
        *("$JS.API.STREAM.CREATE.FLOWS_RAW", "$JS.API.STREAM.UPDATE.FLOWS_RAW", *PULLING),
    ),
}
MAY_NOT_HEAR = {
    "capture": ("flows.>", "flows.raw.node-a", "_INBOX.>", "_INBOX_enricher.>", "$SYS.>", ">"),
    "enricher": ("flows.>", "_INBOX.>", "_INBOX_exporter.>", "$SYS.>", ">"),
    "exporter": ("flows.>", "_INBOX.>", "_INBOX_enricher.>", "$SYS.>", ">"),
    "toolbox": ("_INBOX.>", "_INBOX_capture.>", "$SYS.>", "$JS.>", ">"),
}


async def test_enrichers_may_share_what_they_know_of_the_cluster(nats_of_one: RenderedNats) -> None:
    """The enricher's user makes the cache's stream, appends to it, hears of it, reads and trims it."""
    async with connect(nats_of_one.settings("enricher"), name="test") as bus:
        await bus.ensure_streams(cache=True)
        journal = bus.journal(CACHE_STREAM, CACHE_BELL_SUBJECTS)
        await journal.wait(0)
        waiting = asyncio.create_task(journal.wait(PATIENCE_SECONDS))
        first = await journal.append(CACHE_LOG_SUBJECT, b"a", after=await journal.last_sequence())
        await waiting
        last = await journal.append(CACHE_PULSE_SUBJECT, b"b", after=first, only=True)
        await journal.trim(last)
        assert [entry.data async for entry in journal.entries(0)] == [b"b"]


async def test_enrichers_may_have_consumers_begin_again(nats_of_one: RenderedNats) -> None:
    """The enricher's user looks where both consumers stand and deletes one that stands beyond its stream."""
    async with connect(nats_of_one.settings("enricher"), name="test") as bus:
        for stream, durable in CONSUMERS:
            for may in (bus.consumer_state, bus._jetstream.delete_consumer):
                with contextlib.suppress(ApiError):  # there may be none
                    await may(stream, durable)


@pytest.mark.parametrize("user", MAY_NOT_PUBLISH)
async def test_a_user_may_not_do_anything_else(nats_of_one: RenderedNats, user: str) -> None:
    """The server refuses each service what is another's: reading or writing others' flows, and power over streams."""
    refusals: list[str] = []
    async with plain_client(nats_of_one.settings(user), refusals) as connected:
        for subject in MAY_NOT_PUBLISH[user]:
            await connected.publish(subject, b"{}")
        for subject in MAY_NOT_HEAR[user]:
            await connected.subscribe(subject)
        await connected.flush()
        wanted = [f'permissions violation for publish to "{subject.lower()}"' for subject in MAY_NOT_PUBLISH[user]]
        wanted += [f'permissions violation for subscription to "{subject.lower()}"' for subject in MAY_NOT_HEAR[user]]
        assert await becomes(lambda: len(refusals) >= len(wanted))
        assert {word for word in wanted if not any(word in refusal for refusal in refusals)} == set()


async def test_a_node_with_a_user_speaks_for_itself_only(nats_of_nodes: RenderedNats) -> None:
    """With `nats.auth.nodes` a node publishes its own subject, not another's, and hears its own answers, not another's."""
    refusals: list[str] = []
    async with plain_client(nats_of_nodes.settings("capture", NODE), refusals) as connected:
        await connected.publish("flows.raw.ip-10-0-0-7-eu-west-1-compute-internal", b"own")
        await connected.subscribe(f"_INBOX_capture.{NODE}.x")
        await connected.flush()
        assert refusals == []
        await connected.publish("flows.raw.node-a", b"foreign")
        await connected.subscribe("_INBOX_capture.node-a.>")
        await connected.flush()
        assert await becomes(lambda: len(refusals) >= 2)


async def test_strangers_are_not_let_in(nats_of_one: RenderedNats, nats_of_nodes: RenderedNats) -> None:
    """Without a password, with a wrong one, with another node's, or without TLS there is no connection."""
    right = nats_of_one.settings("exporter")
    context = ssl.create_default_context(cafile=right.tls_ca)
    for more in ({}, {"user": right.user, "password": "wrong"}, {"user": "system", "password": right.password}):
        with pytest.raises((nats.errors.Error, nats.errors.NoServersError)):
            await nats.connect(right.url, tls=context, allow_reconnect=False, connect_timeout=5, **more)
    first, second = (nats_of_nodes.settings("capture", node) for node in (NODE, OTHER_NODE))
    assert first.password != second.password
    context = ssl.create_default_context(cafile=first.tls_ca)
    with pytest.raises((nats.errors.Error, nats.errors.NoServersError)):
        await nats.connect(first.url, tls=context, allow_reconnect=False, user=first.user, password=second.password)
    with pytest.raises((nats.errors.Error, nats.errors.NoServersError, OSError)):
        await nats.connect(
            right.url.replace("tls://", "nats://"), user=right.user, password=right.password, allow_reconnect=False
        )


async def test_an_operator_may_put_dead_letters_back(helm_binary: Path, tmp_path: Path) -> None:
    """The toolbox as `operator` lists, replays and purges dead letters; as `reader` it lists them and is refused the rest."""
    values = {"toolbox": {"enabled": True}}
    with running(render(helm_binary, values), tmp_path) as bus:
        async with connect(bus.settings("enricher"), name="test") as enricher:
            await enricher.ensure_streams()
            for number in range(2):
                await enricher.dead_letter_payload(
                    "enricher", b"x", message_id=str(number), subject="flows.raw.a", reason="refused", detail="", records=1
                )
            reader, as_operator = bus.environment("toolbox"), bus.environment_of("operator")
            assert "refused" in (await asyncio.to_thread(wirespan, reader, "dead-letters", "list")).stdout
            assert (await asyncio.to_thread(wirespan, reader, "dead-letters", "purge", "--yes")).returncode != 0
            async with connect(bus.settings("toolbox"), name="test") as looking:
                assert (await looking.stream_state(DEAD_STREAM)).messages == 2
                replayed = await asyncio.to_thread(wirespan, as_operator, "dead-letters", "replay")
                assert replayed.returncode == 0, replayed.stderr
                assert (await looking.stream_state(DEAD_STREAM)).messages == 0
                assert (await looking.stream_state(RAW_STREAM)).messages == 2


async def test_a_reader_may_ask_how_it_is(helm_binary: Path, tmp_path: Path) -> None:
    """`wirespan status` as the toolbox asks nothing that it may not: of nodes, streams, dead letters, the cluster's index."""
    with running(render(helm_binary, {"toolbox": {"enabled": True}}), tmp_path) as bus:
        async with connect(bus.settings("enricher"), name="test") as enricher:
            await enricher.ensure_streams(cache=True)
            await enricher.publish("flows.enriched.node-a", b"any", message_id="status")
            asked = await asyncio.to_thread(wirespan, bus.environment("toolbox"), "status", "--json", "--timeout", "20")
        log = [line for server in bus.servers for line in server.log]
    assert asked.returncode == 5, asked.stderr
    said = json.loads(asked.stdout)
    assert [stage["missing"] for stage in said["stages"]] == ["the consumer of FLOWS_RAW", "the consumer of FLOWS_ENRICHED"]
    assert "node-a" in [node["name"] for node in said["nodes"]]
    assert not any("Permissions Violation" in line for line in log)


async def test_the_monitoring_port_answers_probes_and_keda(nats_of_one: RenderedNats) -> None:
    """Each probe of the rendered pod passes on the running server, and KEDA's question finds the lag where the chart says."""
    (server,) = nats_of_one.servers
    (line,) = (line for line in server.log if "http monitor" in line)
    monitor = f"http://127.0.0.1:{line.rpartition(':')[2]}"
    (container,) = nats_of_one.rendered.pod("nats")["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        with await asyncio.to_thread(urllib.request.urlopen, monitor + container[probe]["httpGet"]["path"]) as answer:
            assert answer.status == 200
    async with (
        connect(nats_of_one.settings("enricher"), name="enricher") as bus,
        connect(nats_of_one.settings("capture"), name="capture") as node,
    ):
        await bus.ensure_streams()
        for number in range(3):
            await node.publish("flows.raw.node-a", b"batch", message_id=f"node-a/e/{number}")
        async with bus.consume(RAW_STREAM, ENRICHER_DURABLE, max_ack_pending=1, ack_wait_seconds=30, batch=1) as deliveries:
            await anext(deliveries)  # and the other two wait
            question = f"{monitor}/jsz?acc=WIRESPAN&consumers=true&config=true"
            with await asyncio.to_thread(urllib.request.urlopen, question) as answer:
                (account,) = json.load(answer)["account_details"]
    consumers = {each["name"]: each.get("consumer_detail") or [] for each in account["stream_detail"]}
    (found,) = consumers[RAW_STREAM]
    assert found["name"] == ENRICHER_DURABLE
    assert found["num_pending"] == 2
