"""The trace context of a request is found where it is, and nowhere else."""

from __future__ import annotations

import pytest

from services.capture.flows.exchange_layout import RequestCounter
from tests.support.packets.pcap import ACK, PSH, Conversation
from tests.support.packets.replayed import replay_frames

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
CONTEXT = f"00-{TRACE_ID}-{PARENT_ID}-01"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n" + bytes(90)


def request(*headers: str, line: str = "GET /cart HTTP/1.1", body: bytes = b"") -> bytes:
    """A request with these header lines."""
    return "\r\n".join([line, "Host: shop", *headers, "", ""]).encode() + body


def looked_at(folder, payload: bytes, **how):
    """Replay one connection whose request has this payload; returns what became of it and the exchanges."""
    talk = Conversation().handshake()
    talk.tcp(1.0, "client", PSH | ACK, seq=1001, ack=5001, payload=payload)
    talk.tcp(1.1, "server", PSH | ACK, seq=5001, ack=1001 + len(payload), payload=OK)
    replayed = replay_frames(folder, talk.frames, trace_context=True, **how)
    counted = {counter.name.lower() for counter in RequestCounter if replayed.counters[counter.counted_as]}
    return counted, replayed.exchanges


@pytest.mark.parametrize("header", [
    f"traceparent: {CONTEXT}",
    f"Traceparent: {CONTEXT}",
    f"TRACEPARENT:{CONTEXT}",
    f"tRaCePaReNt: \t  {CONTEXT} ",
    f"traceparent: cc-{TRACE_ID}-{PARENT_ID}-01",
    f"traceparent: 01-{TRACE_ID}-{PARENT_ID}-01-more.to-come",
    f"traceparent: 00-{TRACE_ID}-{PARENT_ID}-ff",
])  # fmt: skip
def test_a_sampled_context_is_read(tmp_path, header):
    """In whatever case the name is written, with blanks around the value; of later versions, what version 0 defines."""
    counted, (exchange,) = looked_at(tmp_path, request("Accept: */*", header, "Te: trailers"))
    assert counted == {"sampled"}
    assert exchange["trace_id"] == bytes.fromhex(TRACE_ID)
    assert exchange["parent_span_id"] == bytes.fromhex(PARENT_ID)
    assert exchange["trace_flags"] & 1


@pytest.mark.parametrize("value", [
    f"ff-{TRACE_ID}-{PARENT_ID}-01",
    f"00-{'0' * 32}-{PARENT_ID}-01",
    f"00-{TRACE_ID}-{'0' * 16}-01",
    f"00-{TRACE_ID.upper()}-{PARENT_ID}-01",
    f"00-{TRACE_ID}-{PARENT_ID}-1",
    f"00-{TRACE_ID}-{PARENT_ID}-01-more",
    f"cc-{TRACE_ID}-{PARENT_ID}-01more",
    f"00-{TRACE_ID}-{PARENT_ID}-0g",
    f"00_{TRACE_ID}-{PARENT_ID}-01",
    f"00-{TRACE_ID[:-1]}:-{PARENT_ID}-01",
    f"0x-{TRACE_ID}-{PARENT_ID}-01",
    "",
    "1",
])  # fmt: skip
def test_what_is_no_context_is_refused(tmp_path, value):
    """Version ff, ids of zeros, capitals, other lengths: as the standard asks for."""
    assert looked_at(tmp_path, request(f"traceparent: {value}", "X-Padding: " + "x" * 60)) == ({"malformed"}, [])


def test_what_is_not_sampled_is_counted_and_not_told(tmp_path):
    """The sampled flag is clear, whatever other flags say."""
    assert looked_at(tmp_path, request(f"traceparent: 00-{TRACE_ID}-{PARENT_ID}-fe")) == ({"unsampled"}, [])


@pytest.mark.parametrize("headers", [
    [],
    [f"tracestate: x={CONTEXT}", f"x-traceparent: {CONTEXT}", f"traceparents: {CONTEXT}", f"note: traceparent: {CONTEXT}"],
    ["t: 1", "te: 2", "trace: 3"],
])  # fmt: skip
def test_other_headers_are_no_context(tmp_path, headers):
    """Names that contain it, begin like it or stand in a value; and what stands in the body is no header."""
    body = f"\r\ntraceparent: {CONTEXT}\r\n".encode()
    assert looked_at(tmp_path, request(*headers, body=body)) == ({"absent"}, [])


@pytest.mark.parametrize("place", range(70))
def test_it_is_found_wherever_it_stands(tmp_path, place):
    """At every offset within the words and chunks that the text is read by."""
    counted, (exchange,) = looked_at(tmp_path, request("X: " + "x" * place, f"traceparent: {CONTEXT}"))
    assert (counted, exchange["trace_id"]) == ({"sampled"}, bytes.fromhex(TRACE_ID))


@pytest.mark.parametrize("cut", range(1, 81))
def test_headers_that_go_on_in_the_next_segment_are_missed(tmp_path, cut):
    """Wherever the segment ends: before, in or right behind the context. It is counted."""
    whole = request(f"traceparent: {CONTEXT}")
    begin = whole.index(b"Host")
    assert looked_at(tmp_path, whole[: begin + cut]) == ({"cut"}, [])


def test_headers_that_are_longer_than_is_looked_at_are_missed(tmp_path):
    """14,336 bytes are looked at, of which the header's name is to begin within; and 1,024 for the end of the first line."""
    far, near = (request("X: " + "x" * size, f"traceparent: {CONTEXT}") for size in (14_400, 14_200))
    assert looked_at(tmp_path, far) == ({"cut"}, [])
    assert looked_at(tmp_path, near)[0] == {"sampled"}
    assert looked_at(tmp_path, request(f"traceparent: {CONTEXT}", line=f"GET /{'x' * 1200} HTTP/1.1")) == ({"cut"}, [])


@pytest.mark.parametrize(("payload", "counted"), [(b"GET / HTTP/1.1\r\n\r\n", "absent"), (b"GET / HTTP/1.1\r\nHost:", "cut")])
def test_a_short_request_has_no_room_for_it(tmp_path, payload, counted):
    """Whole or cut off: that is told by its end."""
    assert looked_at(tmp_path, payload) == ({counted}, [])


@pytest.mark.parametrize("header", [
    f"traceparent : {CONTEXT}",
    f" traceparent: {CONTEXT}",
    f"X: y\r\n traceparent: {CONTEXT}",
])  # fmt: skip
def test_what_is_no_header_of_that_name_is_none(tmp_path, header):
    """A blank before the colon, which servers refuse (RFC 9112 5.1), and the continuation of the line before (5.2)."""
    assert looked_at(tmp_path, request(header)) == ({"absent"}, [])


@pytest.mark.parametrize("header", [
    f"traceparent:\r\n {CONTEXT}",
    f"traceparent: {CONTEXT}\r\n and-more",
    f"traceparent: {CONTEXT} and-more",
    f"traceparent: {CONTEXT}, {CONTEXT}",
])  # fmt: skip
def test_a_value_that_goes_on_says_nothing(tmp_path, header):
    """Folded, or more than a context: nobody may send it, and what it means is not agreed."""
    assert looked_at(tmp_path, request(header, "X: y")) == ({"malformed"}, [])


@pytest.mark.parametrize("between", [[], ["X: y"], ["tracestate: a=b", "te: x", f"traceparents: {CONTEXT}"]])
@pytest.mark.parametrize("second", [CONTEXT, f"00-{'1' * 32}-{'2' * 16}-01", "rubbish"])
def test_two_contexts_are_none(tmp_path, second, between):
    """The standard has one; which of several was meant nobody can know. Their number is counted."""
    two = request(f"traceparent: {CONTEXT}", *between, f"Traceparent: {second}")
    assert looked_at(tmp_path, two) == ({"repeated"}, [])


def test_a_context_is_taken_where_the_headers_go_on_behind_what_is_looked_at(tmp_path):
    """Whether another one stands there is not known: it is not thought to."""
    counted, (exchange,) = looked_at(tmp_path, request(f"traceparent: {CONTEXT}", f"Cookie: {'x' * 4096}"))
    assert (counted, exchange["trace_id"]) == ({"sampled"}, bytes.fromhex(TRACE_ID))


def test_lines_may_end_in_a_newline_alone(tmp_path):
    """Recipients may take it for the end of a line (RFC 9112 2.2)."""
    bare = request("Accept: */*", f"traceparent: {CONTEXT}", "Te: trailers").replace(b"\r\n", b"\n")
    assert looked_at(tmp_path, bare)[0] == {"sampled"}
    assert looked_at(tmp_path, bare.replace(b"traceparent", b"x-something"))[0] == {"absent"}


def test_frames_that_were_captured_short_are_missed(tmp_path):
    """What the capture does not hold is not read."""
    talk = Conversation().handshake()
    talk.tcp(1.0, "client", PSH | ACK, seq=1001, ack=5001, payload=request(f"traceparent: {CONTEXT}"))
    frames = talk.frames
    short = type(frames[-1])(frames[-1].time_ns, frames[-1].data[:96], len(frames[-1].data))
    replayed = replay_frames(tmp_path, [*frames[:-1], short], trace_context=True)
    assert (replayed.counters["requests_cut"], replayed.exchanges) == (1, [])


def test_nothing_is_looked_at_unless_it_is_asked_for(tmp_path):
    """Without the setting no request is counted and no exchange told."""
    talk = Conversation().handshake().tcp(1.0, "client", ACK, seq=1001, ack=5001, payload=request(f"traceparent: {CONTEXT}"))
    replayed = replay_frames(tmp_path, talk.frames)
    assert replayed.exchanges == []
    assert not any(name.startswith("requests") for name in replayed.counters)
