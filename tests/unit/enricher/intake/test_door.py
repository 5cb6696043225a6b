"""The door lets in who may come, never waits, and says what it passed over."""

from __future__ import annotations

import gzip
import zlib

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from services.enricher.errors import IntakeError
from services.enricher.intake.counts import IntakeCounts
from services.enricher.intake.door import Authorization, Door, partial_success, status_message, unpacked
from services.enricher.intake.grpc_server import peer_address
from services.runtime.telemetry import Telemetry
from tests.support.otlp_requests import request, span


def door(queue_bytes: int = 1000) -> tuple[Door, list[int]]:
    """A door, and what it says of the first that waits."""
    rung: list[int] = []
    return Door(IntakeCounts(Telemetry("test")), queue_bytes=queue_bytes, on_first=lambda: rung.append(1)), rung


def test_what_does_not_fit_is_answered_with_success_and_counted():
    """A full queue passes spans over and says how many: the sender has no reason to try again, or to wait."""
    body = request([span(1), span(2)])
    it, rung = door(len(body) * 2)
    answers = [it.take(body, "10.0.0.1") for _ in range(3)]
    assert [answer.fault for answer in answers] == ["", "", ""]
    assert [answer.body for answer in answers[:2]] == [b"", b""]
    said = ExportTraceServiceResponse.FromString(answers[2].body)
    assert said.partial_success.rejected_spans == 2
    assert it.counts.spans.total == {"queue_full": 2}
    assert it.counts.requests.total == {"accepted": 2, "queue_full": 1}
    assert (rung, it.waiting_bytes) == ([1], 2 * len(body))
    assert [len(it.drain(1)), len(it.drain(1)), len(it.drain(1))] == [1, 1, 0]
    assert it.waiting_bytes == 0
    assert it.take(body, "").body == b""
    assert rung == [1, 1]


def test_what_is_no_request_is_refused_and_an_empty_one_is_not():
    """Garbage is told to its sender; a request without spans is fine, and nothing waits for it."""
    it, rung = door()
    assert it.take(b"\xff\xff\xff", "").fault
    assert it.take(b"", "").fault == ""
    assert (len(it), rung) == (0, [])
    assert it.counts.requests.total == {"malformed": 1, "accepted": 1}


def test_answers_are_messages_of_the_protocol():
    """OpenTelemetry's and Google's classes read what is written by hand."""
    said = ExportTraceServiceResponse.FromString(partial_success(70_000, "pässed over")).partial_success
    assert (said.rejected_spans, said.error_message) == (70_000, "pässed over")
    assert Status.FromString(status_message("no")).message == "no"


def test_a_bomb_is_not_unpacked():
    """Not a byte more than is allowed is unpacked, whatever a body would become."""
    content = b"spans" * 100
    assert unpacked(gzip.compress(content), len(content)) == content
    with pytest.raises(OverflowError):
        unpacked(gzip.compress(content), len(content) - 1)
    with pytest.raises(OverflowError):
        unpacked(gzip.compress(bytes(64 << 20)), 1 << 20)
    packed = gzip.compress(content)
    for broken in (b"", content, packed[:-1], packed[:-8] + bytes(8), packed + packed, zlib.compress(content)):
        assert unpacked(broken, 1 << 20) is None


def test_only_who_has_a_line_of_the_file_may_send(tmp_path):
    """Any of the lines is let in, so that a secret can be changed while senders still have the old one."""
    path = tmp_path / "authorization"
    path.write_text("Bearer old\n\nBearer new\n")
    authorization = Authorization(path)
    assert [authorization.allows(given) for given in ("Bearer old", "Bearer new", b"Bearer new")] == [True] * 3
    assert not any(authorization.allows(given) for given in (None, "", "Bearer", "bearer old", "Bearer old ", "Bearer öld"))
    assert Authorization(None).allows(None)


def test_a_file_that_lets_nobody_in_is_refused(tmp_path):
    """An empty file, or none, is a fault to be told, not a door that is open."""
    empty = tmp_path / "empty"
    empty.write_text("\n \n")
    for path in (empty, tmp_path / "missing"):
        with pytest.raises(IntakeError, match=str(path)):
            Authorization(path)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:5", "10.0.0.1"),
        ("ipv6:%5Bfd00::1%5D:5", "fd00::1"),
        ("ipv6:[fd00::1]:5", "fd00::1"),
        ("unix:/x", ""),
        ("", ""),
    ],
)
def test_the_senders_address_is_read_of_what_grpc_says(peer, address):
    """It is whose spans they are, where they do not say."""
    assert peer_address(peer) == address
