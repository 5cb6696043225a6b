"""Application spans meet the exchanges of real TLS connections, whose server knows which call came by which."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proto.asked.batch import AskedBatch, encode_asked
from proto.asked.columns import ASKED, SpanKind
from services.capture.live.tap.socket_tap import SocketTap
from services.capture.live_options import TapRules
from services.capture.meeting.meeting import Meeting
from services.capture.names.pieces import PieceKind
from tests.support.certificates import Certificates, make_certificates
from tests.support.pipeline.processes import WAIT_SECONDS, Pipeline
from tests.support.ports import free_port

LOCALHOST = bytes(10) + b"\xff\xff\x7f\0\0\1"
HOLD_NS = 1_000_000_000


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """For a server called localhost."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How the pool is used, and which share of the spans is to be told."""

    callers: int
    calls: int
    delays_ms: tuple[int, int]
    reach: float


class Watched:
    """A tap, and what is remembered of what it sees."""

    def __init__(self, tap: SocketTap) -> None:
        self.tap = tap
        self.meeting = Meeting(16 << 20, lambda _: False, HOLD_NS)

    def look(self) -> Any:
        """Return what is told by now."""
        assert self.tap.turns is not None
        assert self.tap.pieces is not None
        for _ in self.tap.pieces.take():
            pass
        offset, now = offset_ns(), time.monotonic_ns()
        turns = self.tap.turns.take(now, self.tap.high_slot)
        return self.meeting.look(now, offset, turns, self.tap.rows, whoever)


def offset_ns() -> int:
    """From the monotonic clock to Unix time: of several looks at both, the one that took least."""
    looks = [(time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(5)]
    before, unix, after = min(looks, key=lambda look: look[2] - look[0])
    return unix - (before + after) // 2


def whoever(cgroups: np.ndarray) -> tuple[np.ndarray, list[dict[str, str]]]:
    """As CgroupIndex.rows, of a host without pods."""
    return np.zeros(len(cgroups), np.uint32), [{}]


@pytest.fixture(scope="module")
def tap() -> Iterator[SocketTap]:
    """One that sees loopback too."""
    rules = TapRules(loopback=True)
    with SocketTap(capacity=4096, rules=rules, trace_context=True, pieces=tuple(PieceKind), meeting=True) as tap:
        yield tap


@pytest.fixture
def watched(tap: SocketTap) -> Watched:
    """One that remembers nothing yet."""
    return Watched(tap)


def questions(spans: list[list[Any]], port: int) -> bytes:
    """Ask for the exchanges of a host's client spans."""
    count = len(spans)
    ids = [int(call).to_bytes(8, "big") for call, *_ in spans]
    values: dict[str, Any] = {
        "question": range(count), "trace_id": [bytes(8) + each for each in ids], "span_id": ids, "flags": [1] * count,
        "kind": [SpanKind.CLIENT] * count, "start_ns": [span[1] for span in spans], "end_ns": [span[2] for span in spans],
        "local": [0] * count, "local_port": [0] * count, "peer_address": [LOCALHOST] * count, "peer_port": [port] * count,
    }  # fmt: skip
    return encode_asked(AskedBatch("here", count, [""], {c.name: np.array(values[c.name], c.dtype) for c in ASKED}))


def talk(certificates: Certificates, load: Load, endpoint: str = "") -> tuple[int, list[list[Any]], dict[str, list[int]]]:
    """Have a pool of 20 connections used; return the server's port, the spans, and by which connection each call came.

    The spans go to `endpoint` too.
    """
    module = [sys.executable, "-m"]
    server_arguments = [str(certificates.server_certificate), str(certificates.server_key), *map(str, load.delays_ms)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [*module, "tests.support.meeting.tls_server", *server_arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        port = int(server.stdout.readline())
        arguments = [str(certificates.authority), str(port), str(load.callers), "20", str(load.calls)]
        said = subprocess.run(
            [*module, "tests.support.meeting.tls_client", *arguments], stdout=subprocess.PIPE, text=True, cwd=root, check=True,
            env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
        )  # fmt: skip
        return port, json.loads(said.stdout), json.loads(server.communicate()[0])


def call(watched: Watched, certificates: Certificates, load: Load) -> dict[str, Any]:
    """Ask for all spans of such talk, and return what was told and what is true, call by call."""
    port, spans, served = talk(certificates, load)
    told = [watched.look()]
    for first in range(0, len(spans), 4_000):
        watched.meeting.ask(questions(spans[first : first + 4_000], port))
    deadline = time.monotonic() + WAIT_SECONDS
    while (counts := watched.meeting.counters) and sum(
        n for name, n in counts.items() if name.startswith("asked_")
    ) < load.calls:
        told.append(watched.look())
        assert time.monotonic() < deadline
    rows = np.concatenate(told)
    firsts: dict[int, int] = defaultdict(lambda: 1 << 32)
    numbers, facts = watched.meeting.ring.connections()
    flows = dict(zip(numbers.tolist(), facts["flow_id"].tolist(), strict=True))
    for row in watched.meeting.ring.rows():
        firsts[flows[row["connection"]]] = min(firsts[flows[row["connection"]]], int(row["number"]))
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        place = int(row["local_port"]), int(row["number"]) - firsts[int(row["flow_id"])]
        found[str(int.from_bytes(row["parent_span_id"].tobytes(), "big"))].append(place)
    return {"found": found, "true": {call: tuple(place) for call, place in served.items()}, "counts": counts}


@pytest.mark.parametrize(
    "load",
    [
        Load(callers=5, calls=400, delays_ms=(5, 40), reach=0.95),
        Load(callers=20, calls=1_500, delays_ms=(20, 120), reach=0.9),
        Load(callers=50, calls=3_000, delays_ms=(50, 250), reach=0.85),
    ],
    ids=lambda load: f"{load.callers}",
)
def test_each_span_meets_its_own_exchange(watched: Watched, certificates: Certificates, load: Load) -> None:
    """Over 20 keep-alive connections in TLS 1.3: no span is told another's exchange, and most are told theirs."""
    ran = call(watched, certificates, load)
    wrong = {each: (places, ran["true"][each]) for each, places in ran["found"].items() if places != [ran["true"][each]]}
    assert not wrong
    assert watched.tap.turns is not None
    assert watched.tap.turns.lost == 0
    assert len(ran["found"]) >= load.reach * load.calls, ran["counts"]


def answered(pipeline: Pipeline) -> dict[str, int]:
    """What capture says that became of questions."""
    said = re.findall(r'^wirespan_capture_spans_asked_total\{reason="(.*)"\} (.*)$', pipeline.metrics("capture"), re.MULTILINE)
    return defaultdict(int, {reason: int(float(count)) for reason, count in said})


def met_spans(file: Path) -> list[dict[str, Any]]:
    """The exchanges that were met, as the exporter has written them by now."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    groups = [group for line in lines if line.endswith("\n") for group in json.loads(line)["resourceSpans"]]
    spans = [span for group in groups for scope in group["scopeSpans"] for span in scope["spans"]]
    spans = [span for span in spans if span["name"] == "exchange at client"]
    for span in spans:
        span["attributes"] = {one["key"]: next(iter(one["value"].values())) for one in span["attributes"]}
    return [span for span in spans if span["attributes"]["flow.exchange.matched"] == "span"]


def test_spans_that_an_sdk_sends_have_their_exchanges_for_children(certificates: Certificates, tmp_path: Path) -> None:
    """The services over a real bus: spans go to the enricher over OTLP, their calls over a pool of TLS connections; what the
    exporter tells of these is each under the right span.
    """
    intake = free_port()
    told = tmp_path / "spans.jsonl"
    load = Load(callers=5, calls=60, delays_ms=(5, 40), reach=0.5)
    with Pipeline(
        tmp_path,
        WIRESPAN_CAPTURE_REPLAY_FILES="",
        WIRESPAN_CAPTURE_REPLAY_LOOP="",
        WIRESPAN_CAPTURE_LOOPBACK="true",
        WIRESPAN_CAPTURE_MEETING="true",
        WIRESPAN_CAPTURE_NODE="here",
        WIRESPAN_ENRICHER_KUBE_SNAPSHOT="",
        WIRESPAN_ENRICHER_INTAKE="true",
        WIRESPAN_ENRICHER_INTAKE_NODE="here",
        WIRESPAN_ENRICHER_INTAKE_GRPC_PORT=str(intake),
        WIRESPAN_ENRICHER_INTAKE_HTTP_PORT="0",
        WIRESPAN_EXPORTER_OUTPUT_FILE=str(told),
        WIRESPAN_EXPORTER_ATTRIBUTES="full",
        WIRESPAN_KUBE_API="off",
    ) as pipeline:
        pipeline.wait_for("enricher", "wirespan_enricher_records_total")
        _, spans, served = talk(certificates, load, f"http://127.0.0.1:{intake}")
        deadline = time.monotonic() + WAIT_SECONDS
        while sum((counts := answered(pipeline)).values()) < load.calls or len(met := met_spans(told)) < counts["matched"]:
            assert time.monotonic() < deadline, counts
            time.sleep(0.2)
    by_parent = {span["parentSpanId"]: span for span in met}
    own = {call: by_parent.get(f"{span_id:016x}") for call, _, _, span_id in spans}
    found = [(served[call], span) for call, span in own.items() if span is not None]
    assert len(found) == len(met) >= load.reach * load.calls
    assert [span["attributes"]["source.port"] for _, span in found] == [str(port) for (port, _), _ in found]
    # On one connection what was asked first came first.
    found.sort(key=lambda pair: pair[0])
    for (place, span), (next_place, next_span) in itertools.pairwise(found):
        assert place[0] != next_place[0] or int(span["endTimeUnixNano"]) < int(next_span["startTimeUnixNano"])
