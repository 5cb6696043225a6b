"""The checker of `make chaos` sees what it is there for: what is lost, what is there twice, what is not to the byte."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.chaos.checker import Backend, verdict
from tests.chaos.results import keep, kept, table
from tests.chaos.traffic import Generator, Key, Sum
from tests.support.pipeline.otlp_receiver import Accept, OtlpReceiver, Stall

KEY = Key("10.0.0.1", 20_000)
KNOWN = {KEY: Sum(bytes=300, packets=3, reverse_bytes=700, reverse_packets=4)}


def accept(
    backend: Backend, record: int, size: int, *, span_id: bytes, reverse: tuple[int, int] = (0, 0), port: int = 20_000
) -> None:
    """Have the backend accept a span of the connection."""
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(trace_id=b"t" * 16, span_id=span_id)
    numbers = {
        "flow.bytes.delta": size,
        "flow.packets.delta": size // 100,
        "flow.reverse.bytes.delta": reverse[0],
        "flow.reverse.packets.delta": reverse[1],
        "flow.record": record,
        "source.port": port,
    }
    for name, number in numbers.items():
        span.attributes.add(key=name).value.int_value = number
    span.attributes.add(key="source.address").value.string_value = KEY.client
    backend.receive("grpc", {}, request.SerializeToString())


def test_a_connection_in_several_records_is_whole() -> None:
    """Its records add up, and the same span twice is one."""
    backend = Backend()
    accept(backend, 0, 100, span_id=b"a")
    accept(backend, 0, 100, span_id=b"a")
    accept(backend, 1, 200, span_id=b"b", reverse=(700, 4))
    found = verdict(backend, KNOWN)
    assert (found.lost, found.wrong, backend.conflicts) == (0, 0, [])


@pytest.mark.parametrize("last", [0, 100])
def test_what_is_missing_is_lost(last: int) -> None:
    """All of it, a record of it, or one byte of it."""
    backend = Backend()
    if last:
        accept(backend, 0, 300, span_id=b"a", reverse=(699, 4))
    found = verdict(backend, KNOWN)
    assert (found.lost, found.wrong) == (1, 0)
    assert "10.0.0.1:20000" in found.example


def test_a_record_under_two_ids_is_wrong() -> None:
    """It would be counted twice in the backend."""
    backend = Backend()
    accept(backend, 0, 300, span_id=b"a", reverse=(700, 4))
    accept(backend, 0, 300, span_id=b"b", reverse=(700, 4))
    assert verdict(backend, KNOWN).wrong == 1


def test_a_span_with_another_content_is_a_conflict() -> None:
    """Whichever a backend keeps, one of them was false."""
    backend = Backend()
    accept(backend, 0, 300, span_id=b"a", reverse=(700, 4))
    accept(backend, 0, 200, span_id=b"a", reverse=(700, 4))
    assert len(backend.conflicts) == 1


def test_the_generator_repeats_itself_by_its_seed(tmp_path: Path) -> None:
    """The same seed makes the same traffic, and no two of its files share a connection."""
    first, second = Generator(tmp_path, 1), Generator(tmp_path, 1)
    known = first.file()[1]
    assert known == second.file()[1]
    assert not known.keys() & first.file()[1].keys()


def test_runs_add_up_in_the_table(tmp_path: Path) -> None:
    """Episodes of a fault are one line, whatever seed they had; pairs are another."""
    one = {
        "servers": 1,
        "connections": 10,
        "lost": 0,
        "wrong": 0,
        "misnamed": 0,
        "conflicts": 0,
        "stall_seconds": 1.0,
        "recovery_seconds": 2.0,
    }
    path = tmp_path / "runs.json"
    keep(path, [{**one, "faults": ["backend down"], "seed": 1, "example": "x"}])
    keep(path, [{**one, "faults": ["backend down"], "seed": 2, "lost": 3}, {**one, "faults": ["a", "b"], "seed": 2}])
    lines = table(kept(path)).splitlines()
    assert lines[2:] == [
        "| backend down | 1 | 2 | 2 | 20 | 3 | 0 | 0 | 0 | 1.0 s | 2.0 s |",
        "| two of these at once | 1 | 1 | 1 | 10 | 0 | 0 | 0 | 0 | 1.0 s | 2.0 s |",
    ]


def test_a_backend_that_does_not_answer_does_not_in_later_episodes_either() -> None:
    """What ends one stall ends no later one: else the fault would be what it is called in one episode only."""
    backend, answers = OtlpReceiver(), list[object]()
    for number in range(2):
        backend.default = Stall()
        asking = threading.Thread(target=lambda: answers.append(backend.receive("grpc", {}, b"")))
        asking.start()
        backend.wait_for(lambda number=number: len(backend.requests) > number)
        assert len(answers) == number
        backend.default = Accept()
        backend.release()
        asking.join()
    assert answers == [Stall(), Stall()]
