"""Steps of set-up in the caller's trace, from a capture file to spans, against the times that tshark reads in the file."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from proto.flow_batch import decode
from services.capture.progress import ProgressReport
from services.capture.replay.reader import ReplayReader
from services.capture.settings import CaptureSettings
from services.exporter.encoder import SpanEncoder
from tests.support.packets.pcap import write
from tests.support.packets.talks.http_talk import PARENTS, reply, request
from tests.unit.capture.names.test_setup import Late, lookup

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")

CONNECTIONS = 20
STEPS = ("dns lookup", "connect")


def of_tshark(path, display, *fields):
    """Fields of the frames that match."""
    command = ["tshark", "-r", path, "-Y", display, "-T", "fields", *(each for name in fields for each in ("-e", name))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split("\t") for line in output.splitlines()]


def ns(seconds):
    """Epoch seconds as tshark prints them, in nanoseconds."""
    whole, _, rest = seconds.partition(".")
    return int(whole) * 1_000_000_000 + int(rest[:9].ljust(9, "0"))


def test_times_are_tsharks(tmp_path):
    """Of connections that each waited for a lookup, and some for a SYN that was sent again: begin and end of both steps, to the
    nanosecond, and by the links which flow each came from; the second call of each has none.
    """
    frames = []
    for number in range(CONNECTIONS):
        at = number * 3.0
        frames += lookup(at, at + 0.01 * number + 0.001, f"10.0.1.{number}", number=number + 1, port=5000 + number)
        talk = Late(at + 0.3, repeats=number % 3, server=f"10.0.1.{number}", client_port=40000 + number)
        begun = at + 0.4 + number % 3
        talk.ask(begun, request(0)).answer(begun + 0.1, reply()).ask(begun + 0.2, request(1)).answer(begun + 0.3, reply())
        frames += talk.frames
    path = write(tmp_path / "talks.pcap", sorted(frames, key=lambda frame: frame.time_ns))
    reader = ReplayReader(CaptureSettings(node="n", replay_files=(path,)), "e", ProgressReport(None))
    encoder, spans = SpanEncoder(cluster_name="c"), []
    while ready := reader.read():
        for batch in ready:
            sent = ExportTraceServiceRequest.FromString(encoder.encode(decode(batch.message)))
            spans += [span for each in sent.resource_spans for scope in each.scope_spans for span in scope.spans]
    reader.close()
    found = {name: sorted((each.start_time_unix_nano, each.end_time_unix_nano) for each in spans if each.name == name)
             for name in STEPS}  # fmt: skip
    syns = {}
    for port, at in of_tshark(path, "tcp.flags.syn == 1 && tcp.flags.ack == 0", "tcp.srcport", "frame.time_epoch"):
        syns.setdefault(port, ns(at))
    acks = {port: ns(at) for port, at in of_tshark(path, "tcp.seq == 1 && tcp.len == 0 && tcp.flags.syn == 0 && tcp.ack == 1",
                                                   "tcp.srcport", "frame.time_epoch")}  # fmt: skip
    asked = [ns(at) for (at,) in of_tshark(path, "dns.flags.response == 0", "frame.time_epoch")]
    answered = [ns(at) for (at,) in of_tshark(path, "dns.flags.response == 1", "frame.time_epoch")]
    assert found["connect"] == sorted((syns[port], acks[port]) for port in syns)
    assert found["dns lookup"] == list(zip(asked, answered, strict=True))
    assert len(asked) == len(syns) == CONNECTIONS
    by_id = {(each.trace_id, each.span_id): each for each in spans}
    for span in spans:
        if span.name in STEPS:
            assert span.parent_span_id == PARENTS[0]
            (link,) = span.links
            assert by_id[link.trace_id, link.span_id].start_time_unix_nano == span.start_time_unix_nano
