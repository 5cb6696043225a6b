"""Spans of calls that share a connection in TLS have for a child what the connection did: as much as the kernel counted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proto.asked.batch import AskedBatch, encode_asked
from proto.asked.columns import ASKED, SpanKind
from proto.columns import CONNECTION_PART, Reason, Role
from proto.flow_batch import decode
from services.capture.live.reader import LiveReader
from services.capture.live.tap.socket_tap import TapRules
from services.capture.live_options import LiveOptions
from tests.support.certificates import make_certificates
from tests.support.node.live_capture import reason_to_skip
from tests.support.pipeline.processes import WAIT_SECONDS
from tests.support.ports import free_port

pytestmark = [
    pytest.mark.xdist_group("socket_tap"),
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or ""),
]

READ = (
    "role", "local_port", "remote_port", "parent_span_id", "exchange_shared", "request_bytes", "response_bytes",
    "request_retransmits", "smoothed_rtt_ns", "start_unix_ns", "end_unix_ns",
)  # fmt: skip
ROOT = Path(__file__).parents[3]
ADDRESS = "127.0.0.1"
CALLERS, ROUNDS = 6, 8
CLIENT_SPAN, SERVER_SPAN = 1 << 48, 2 << 48
"""What is added to a span's id where it is asked for as a client's, and as a server's."""


def mapped(address: str) -> bytes:
    """An IPv4 address as columns have it."""
    return bytes(10) + b"\xff\xff" + bytes(map(int, address.split(".")))


def questions(spans: list[list[int]], kind: SpanKind, address: str, port: int) -> bytes:
    """Ask for a host's spans whose peer is there."""
    count = len(spans)
    ids = [each.to_bytes(8, "big") for each, *_ in spans]
    values: dict[str, Any] = {
        "question": range(count), "trace_id": [bytes(8) + each for each in ids], "span_id": ids, "flags": [1] * count,
        "kind": [kind] * count, "start_ns": [span[1] for span in spans], "end_ns": [span[2] for span in spans],
        "local": [0] * count, "local_port": [0] * count, "peer_address": [mapped(address)] * count, "peer_port": [port] * count,
    }  # fmt: skip
    return encode_asked(AskedBatch("here", count, [""], {c.name: np.array(values[c.name], c.dtype) for c in ASKED}))


def rows(reader: LiveReader) -> Iterator[dict[str, Any]]:
    """Exchange records that are due, column by column."""
    for ready in reader.read():
        for message in ready.messages:
            batch = decode(message.message)
            for row in np.flatnonzero(batch.column("reason") == Reason.EXCHANGE).tolist():
                yield {name: batch.column(name)[row] for name in READ}
        reader.accept(ready)


@pytest.mark.parametrize("callers", [1, CALLERS])
def test_each_span_has_its_connections_part(tmp_path: Path, callers: int) -> None:
    """Of gRPC in TLS, one call at a time and several, at both ends: no exchange is told, no part of another connection, and
    what is counted is what the kernel counted in that time.
    """
    made = make_certificates(tmp_path)
    port = free_port()
    rules = TapRules(loopback=True, allow_ports=(port,))
    options = LiveOptions(capacity=4096, rules=rules, trace_context=True, names="tls", meeting_bytes=16 << 20)
    module, keys = [sys.executable, "-m"], [str(made.server_certificate), str(made.server_key)]
    told: list[dict[str, Any]] = []
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with LiveReader(node="here", epoch="epoch", options=options, leave_out_own=False) as reader:
        serve = [*module, "tests.support.meeting.grpc_server", *keys, f"{ADDRESS}:{port}", "3", "30"]
        with subprocess.Popen(serve, stdin=subprocess.PIPE, **pipes) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "serving\n"
            arguments = [str(made.authority), ADDRESS, str(port), str(callers), str(ROUNDS), "0.05"]
            with subprocess.Popen([*module, "tests.support.meeting.grpc_client", *arguments], **pipes) as client:
                while client.poll() is None:
                    told += rows(reader)
                    time.sleep(0.2)
                assert client.stdout is not None
                said = json.loads(client.stdout.read())
            server.communicate()
        asked = [span for one in said["rounds"] for span in one["spans"]]
        reader.meeting.ask(
            questions([[CLIENT_SPAN + n, *of[1:]] for n, of in enumerate(asked)], SpanKind.CLIENT, ADDRESS, port)
        )
        reader.meeting.ask(
            questions([[SERVER_SPAN + n, *of[1:]] for n, of in enumerate(asked)], SpanKind.SERVER, ADDRESS, said["port"])
        )
        deadline = time.monotonic() + WAIT_SECONDS
        while sum(counts := [n for name, n in reader.meeting.counters.items() if name.startswith("asked_")]) < 2 * len(asked):
            assert time.monotonic() < deadline, reader.meeting.counters
            told += rows(reader)
            time.sleep(0.2)
        assert sum(counts) == reader.meeting.counters["asked_connection"] == len(told) == 2 * len(asked)
    by_span = {int.from_bytes(row["parent_span_id"].tobytes(), "big"): row for row in told}
    for number, of in enumerate(asked):
        (counted,) = [one["counted"] for one in said["rounds"] if of in one["spans"]]
        for base, role in ((CLIENT_SPAN, Role.CLIENT), (SERVER_SPAN, Role.SERVER)):
            row = by_span[base + number]
            own = "local" if role == Role.CLIENT else "remote"
            assert (row["exchange_shared"], row["role"], row[f"{own}_port"]) == (CONNECTION_PART, role, said["port"])
            if counted is not None:
                assert [int(row[name]) for name in ("request_bytes", "response_bytes")] == counted[:2]
                # A server does not see of a segment that is lost that it was sent.
                assert role == Role.SERVER or int(row["request_retransmits"]) == counted[2]
            assert of[1] - 2_000_000 <= row["start_unix_ns"] < row["end_unix_ns"] <= of[2] + 2_000_000
            assert row["smoothed_rtt_ns"] > 0
    assert sum(one["counted"] is not None for one in said["rounds"]) >= ROUNDS // 2
