"""Spans in a file are OTLP/JSON lines, each whole or not there."""

from __future__ import annotations

import asyncio
import base64
import json
import multiprocessing
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from services.exporter.delivery.file import FileSink, json_line
from services.exporter.delivery.sink import Accepted, Rejected, Retry
from services.exporter.encoder import SpanEncoder
from services.exporter.errors import OutputFileError
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.support.pipeline.otlp_receiver import export_request

TRACE_ID, SPAN_ID = bytes.fromhex("5b8efff798038103d269b633813fc60c"), bytes.fromhex("eee19b7ec3c1b174")


def span_of(line: bytes) -> Any:
    """The first span of a line."""
    return json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]


def attribute(key: str, **value: Any) -> KeyValue:
    """An attribute of any type."""
    return KeyValue(key=key, value=AnyValue(**value))


async def write(path: Path, *bodies: bytes) -> list[object]:
    """Send requests through a sink of its own; return the outcomes."""
    sink = FileSink(path)
    try:
        return [await sink.send(body) for body in bodies]
    finally:
        await sink.close()


def test_json_is_what_otlp_says():
    """Ids in hex, 64-bit integers as strings, enumerations as numbers, names in lowerCamelCase, base64 for bytes only."""
    span = Span(
        trace_id=TRACE_ID,
        span_id=SPAN_ID,
        parent_span_id=SPAN_ID[::-1],
        name="größe\n\u2028",
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=1_544_712_660_000_000_000,
        attributes=[
            attribute("int", int_value=0),
            attribute("large", int_value=2**53 + 1),
            attribute("bool", bool_value=False),
            attribute("double", double_value=0.5),
            attribute("bytes", bytes_value=b"\xff\x00"),
            attribute("list", array_value=ArrayValue(values=[AnyValue(string_value="a")])),
            attribute("map", kvlist_value=KeyValueList(values=[attribute("traceId", string_value="as it is")])),
        ],
        dropped_attributes_count=1,
        links=[Span.Link(trace_id=TRACE_ID, span_id=SPAN_ID)],
        status=Status(code=Status.STATUS_CODE_ERROR, message="refused"),
        flags=0x101,
    )
    scope_spans = ScopeSpans(scope=InstrumentationScope(name="wirespan"), spans=[span], schema_url="https://schema")
    request = ExportTraceServiceRequest(
        resource_spans=[
            ResourceSpans(resource=Resource(attributes=[attribute("a", string_value="")]), scope_spans=[scope_spans])
        ]
    )
    line = json_line(request.SerializeToString())
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "a", "value": {"stringValue": ""}}]},
                "scopeSpans": [
                    {
                        "scope": {"name": "wirespan"},
                        "spans": [
                            {
                                "traceId": "5b8efff798038103d269b633813fc60c",
                                "spanId": "eee19b7ec3c1b174",
                                "parentSpanId": "74b1c1c37e9be1ee",
                                "name": "größe\n\u2028",
                                "kind": 3,
                                "startTimeUnixNano": "1544712660000000000",
                                "attributes": [
                                    {"key": "int", "value": {"intValue": "0"}},
                                    {"key": "large", "value": {"intValue": "9007199254740993"}},
                                    {"key": "bool", "value": {"boolValue": False}},
                                    {"key": "double", "value": {"doubleValue": 0.5}},
                                    {"key": "bytes", "value": {"bytesValue": "/wA="}},
                                    {"key": "list", "value": {"arrayValue": {"values": [{"stringValue": "a"}]}}},
                                    {
                                        "key": "map",
                                        "value": {
                                            "kvlistValue": {
                                                "values": [{"key": "traceId", "value": {"stringValue": "as it is"}}]
                                            }
                                        },
                                    },
                                ],
                                "droppedAttributesCount": 1,
                                "links": [{"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174"}],
                                "status": {"code": 2, "message": "refused"},
                                "flags": 257,
                            }
                        ],
                        "schemaUrl": "https://schema",
                    }
                ],
            }
        ]
    }


def test_json_reads_back_as_what_it_was():
    """Every field survives: with ids back in base64, protobuf's own reader gives the request that was written."""
    (request,) = SpanEncoder(cluster_name="c").encode_requests(enriched_batch(23), 1 << 22)
    tree = json.loads(json_line(request.body))
    for resource_spans in tree["resourceSpans"]:
        for scope_spans in resource_spans["scopeSpans"]:
            for span in scope_spans["spans"]:
                for name in {"traceId", "spanId", "parentSpanId"} & set(span):
                    span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    read = json_format.ParseDict(tree, ExportTraceServiceRequest())
    assert read == ExportTraceServiceRequest.FromString(request.body)


async def test_one_line_a_request(tmp_path: Path):
    """Each request becomes one line, appended to what is there."""
    path = tmp_path / "spans.jsonl"
    assert await write(path, export_request(1), export_request(2)) == [Accepted(), Accepted()]
    assert await write(path, export_request(3)) == [Accepted()]
    counts = [len(json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]) for line in path.read_bytes().splitlines()]
    assert counts == [1, 2, 3]


@pytest.mark.parametrize("partial", [b"", b'{"resourceSpans":[', b"x" * 200_000])
@pytest.mark.parametrize("whole", [b"", json_line(export_request(1))])
async def test_a_partial_last_line_is_cut_off(tmp_path: Path, whole: bytes, partial: bytes):
    """What a crash left after the last newline goes, and nothing else does."""
    path = tmp_path / "spans.jsonl"
    path.write_bytes(whole + partial)
    await write(path, export_request(2))
    assert path.read_bytes() == whole + json_line(export_request(2))


async def test_lines_stay_whole_side_by_side(tmp_path: Path):
    """Requests sent at the same time do not mix."""
    sink = FileSink(tmp_path / "spans.jsonl")
    bodies = [export_request(number, padding=5_000) for number in range(1, 24)]
    assert await asyncio.gather(*map(sink.send, bodies)) == [Accepted()] * 23
    await sink.close()
    assert sorted((tmp_path / "spans.jsonl").read_bytes().splitlines(keepends=True)) == sorted(map(json_line, bodies))


def _write_with_a_limit(path: Path, limit: int) -> None:
    """Write under a file size limit, lift it, write again; what follows is checked by the parent."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    async def attempts() -> None:
        sink = FileSink(path)
        outcomes = [await sink.send(export_request(1)), await sink.send(export_request(1, padding=limit))]
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        outcomes.append(await sink.send(export_request(2)))
        await sink.close()
        assert [type(outcome) for outcome in outcomes] == [Accepted, Retry, Accepted], outcomes

    asyncio.run(attempts())


def test_no_room_left(tmp_path: Path):
    """A write that the file system takes only half of is a retry, and no half of a line remains."""
    path = tmp_path / "spans.jsonl"
    process = multiprocessing.get_context("spawn").Process(target=_write_with_a_limit, args=(path, 10_000))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert path.read_bytes() == json_line(export_request(1)) + json_line(export_request(2))


async def test_a_full_device_is_a_retry():
    """ENOSPC from a device that is not a file of its own."""
    (outcome,) = await write(Path("/dev/full"), export_request(1))
    assert isinstance(outcome, Retry)
    assert outcome.reason == "file"
    assert "No space" in outcome.detail


async def test_bytes_that_are_no_request(tmp_path: Path):
    """They are rejected and leave nothing in the file."""
    (outcome,) = await write(tmp_path / "spans.jsonl", b"\xff\xff")
    assert isinstance(outcome, Rejected)
    assert (tmp_path / "spans.jsonl").read_bytes() == b""


async def test_a_pipe_is_written_to(tmp_path: Path):
    """Output may be a pipe: no locks, no cutting."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert await write(pipe, export_request(1)) == [Accepted()]
    assert os.read(reader, 10_000) == json_line(export_request(1))
    os.close(reader)


async def test_one_writer_at_a_time(tmp_path: Path):
    """A second exporter on the same file is refused; once the first has closed it, it may."""
    first = FileSink(tmp_path / "spans.jsonl")
    with pytest.raises(OutputFileError, match="another exporter"):
        FileSink(tmp_path / "spans.jsonl")
    await first.close()
    await first.close()
    await FileSink(tmp_path / "spans.jsonl").close()


async def test_a_file_keeps_to_its_size(tmp_path: Path):
    """Every request is whole in one file, the latest in the unnumbered one; beyond what is kept, the oldest go. A file found at
    the start counts with what it has.
    """
    path = tmp_path / "spans.jsonl"
    lines = [json_line(export_request(1, padding=500 + number)) for number in range(1, 10)]
    limit = 2 * len(lines[0]) + 40
    for numbers in (range(1, 4), range(4, 10)):
        sink = FileSink(path, limit, 2)
        for number in numbers:
            assert await sink.send(export_request(1, padding=500 + number)) == Accepted()
        await sink.close()
    kept = {each.name: each.read_bytes() for each in await asyncio.to_thread(lambda: list(tmp_path.iterdir()))}
    assert kept == {
        "spans.jsonl": lines[8],
        "spans.jsonl.1": lines[6] + lines[7],
        "spans.jsonl.2": lines[4] + lines[5],
    }
    await (single := FileSink(path, 10, 1)).send(export_request(1, padding=501))
    await single.close()
    assert path.read_bytes() == lines[0]


async def test_a_rotation_that_fails_is_tried_again(tmp_path: Path):
    """Where the new file cannot be opened the request is not accepted, and goes to it later; nothing is lost or doubled."""
    path = tmp_path / "spans.jsonl"
    lines = [json_line(export_request(number)) for number in (1, 2)]
    sink = FileSink(path, len(lines[0]), 3)
    assert await sink.send(export_request(1)) == Accepted()
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "missing" / "folder")
    assert isinstance(await sink.send(export_request(2)), Retry)
    path.unlink()
    assert await sink.send(export_request(2)) == Accepted()
    await sink.close()
    assert path.read_bytes() == lines[1]
    assert (tmp_path / "moved").read_bytes() == lines[0]


def test_a_file_that_cannot_be_opened(tmp_path: Path):
    """The error names the file and the reason."""
    with pytest.raises(OutputFileError, match="No such file or directory"):
        FileSink(tmp_path / "missing" / "spans.jsonl")
