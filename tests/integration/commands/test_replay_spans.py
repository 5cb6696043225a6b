"""`wirespan replay --spans`: spans of applications meet the exchanges of a capture file, as they would have live."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.packets.pcap import SECOND, START, write
from tests.support.packets.talks.http_talk import Talk

ROOT = Path(__file__).parents[3]
CONNECTIONS, CALLS = 3, 24
TRACE = "5b" * 16


def begin_of(call: int) -> float:
    """When a call's request is sent: each overlaps the ones before and after."""
    return 1 + 0.05 * call


def end_of(call: int) -> float:
    """When its response is over; none lasts as long as another."""
    return begin_of(call) + 0.07 + 0.001 * call


def span(number: int, begin: float, end: float, **more: Any) -> dict[str, Any]:
    """One of a client of a database whose name no capture knows."""
    attributes = [
        {"key": "server.address", "value": {"stringValue": "orders-db"}},
        {"key": "server.port", "value": {"intValue": "5432"}},
    ]
    times = {
        "startTimeUnixNano": str(START + round(begin * SECOND)),
        "endTimeUnixNano": str(START + round(end * SECOND)),
    }
    return {"traceId": TRACE, "spanId": f"{number:016x}", "name": "SELECT", "kind": 3, "attributes": attributes} | times | more


def replayed(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What the command came to."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "WIRESPAN_"))}
    environ |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "COLUMNS": "160"}
    command = [sys.executable, "-m", "services.cli", "replay", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=170, check=False)


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A client that asks over three connections at once, in a protocol that is nobody's."""
    talks = [
        Talk(client="10.1.0.1", server="10.1.0.9", client_port=40_000 + each, server_port=5432) for each in range(CONNECTIONS)
    ]
    for call in range(CALLS):
        talks[call % CONNECTIONS].ask(begin_of(call), b"\x07" * 40).answer(end_of(call), b"\x09" * 400)
    return write(
        tmp_path / "talk.pcap", sorted((frame for talk in talks for frame in talk.frames), key=lambda each: each.time_ns)
    )


@pytest.mark.timeout(180)
def test_spans_meet_the_exchanges_of_a_capture(capture: Path, tmp_path: Path) -> None:
    """Each exchange is a child of the span that asked, within it, in its trace; whoever had no exchange gets none, and the
    account says how many there were. Spans may lie in several files, in any order.
    """
    asked = [span(call + 1, begin_of(call) - 0.0003, end_of(call) + 0.0004) for call in range(CALLS)]
    asked += [span(100, 20, 20.1), span(101, begin_of(0), end_of(0), kind=1)]
    files = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for number, file in enumerate(files):
        lines = [{"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": [one]}]}]} for one in reversed(asked[number::2])]
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    run = replayed(tmp_path, capture, "--spans", files[0], "--spans", files[1], "--output", tmp_path / "out.jsonl")
    assert run.returncode == 0, run.stderr
    told = [
        one
        for line in (tmp_path / "out.jsonl").read_text().splitlines()
        for group in json.loads(line)["resourceSpans"]
        for scope in group["scopeSpans"]
        for one in scope["spans"]
    ]
    parents = {one["spanId"]: one for one in asked}
    met = {
        one["parentSpanId"]: one for one in told if one.get("parentSpanId") in parents and one["name"].startswith("exchange")
    }
    assert sorted(met) == [f"{call + 1:016x}" for call in range(CALLS)]
    for call in range(CALLS):
        one = met[f"{call + 1:016x}"]
        assert one["traceId"] == TRACE
        assert int(one["startTimeUnixNano"]) == START + round(begin_of(call) * SECOND)
        assert int(one["endTimeUnixNano"]) == START + round(end_of(call) * SECOND)
        matched = [each["value"] for each in one["attributes"] if each["key"] == "flow.exchange.matched"]
        assert matched == [{"stringValue": "span"}]
    assert f"of {CALLS + 1} application spans" in run.stdout
