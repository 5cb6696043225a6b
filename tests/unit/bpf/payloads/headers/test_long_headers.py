"""The trace context of a request with long headers, wherever it stands in them and however they are cut into segments."""

from __future__ import annotations

from itertools import pairwise

import pytest

from proto.columns import ExchangeEnd
from tests.support.packets.pcap import ACK, FIN, RST
from tests.support.packets.talks.http_talk import PARENTS, Talk, counted, reply, request, seconds, told, traceparent

WINDOW, WINDOWS = 512, 28
COOKIE = "Cookie: " + "t=p;" * 1000


def long_request(*headers: str, flags: str = "01") -> bytes:
    """A request with these headers before its context, and more behind."""
    return "\r\n".join(["GET /cart HTTP/1.1", "Host: cart", *headers, traceparent(0, flags), "X: y", "", ""]).encode()


def asked(folder, *parts: bytes):
    """The exchanges of a request in these segments, 0.1 s apart from 1.0 s on, and of another one behind; what was counted."""
    talk = Talk()
    for number, part in enumerate(parts):
        talk.ask(1 + number / 10, part)
    talk.answer(3.0, reply()).ask(4.0, request(1)).answer(4.1, reply())
    exchanges, replayed = told(folder, talk)
    return exchanges, counted(replayed)


@pytest.mark.parametrize("size", [900, 1000, 1010, 1023, 1024, 1030, 2000, 2040, 4096, 8192, 14_100])
def test_it_is_found_in_14_kib(tmp_path, size):
    """Across the windows that the headers are read by, with the method and the bytes of the whole request."""
    whole = long_request("X: " + "x" * size)
    (first, _), found = asked(tmp_path, whole)
    assert (first["trace_id"], first["parent_span_id"]) == (b"\xab" * 16, PARENTS[0])
    assert (first["request_bytes"], first["http_method"], first["exchange_end"]) == (len(whole), 1, ExchangeEnd.NEXT_REQUEST)
    assert seconds(first) == [1.0, 1.0, 3.0, 3.0]
    assert found == {"requests_sampled": 2}


def test_beyond_that_it_is_missed_and_counted(tmp_path):
    """The next request is told."""
    exchanges, found = asked(tmp_path, long_request("X: " + "x" * WINDOW * WINDOWS))
    assert [each["parent_span_id"] for each in exchanges] == [PARENTS[1]]
    assert found == {"requests_cut": 1, "requests_sampled": 1}


@pytest.mark.parametrize("cut", range(20, 125))
def test_it_is_found_in_a_later_segment(tmp_path, cut):
    """Wherever the headers are cut, in the header's own line too: the request has the times of all of it."""
    whole = long_request("X: traceparent")
    exchanges, found = asked(tmp_path, whole[:cut], whole[cut:])
    assert found == {"requests_sampled": 2}
    assert exchanges[0]["parent_span_id"] == PARENTS[0]
    assert (exchanges[0]["request_bytes"], seconds(exchanges[0])) == (len(whole), [1.0, 1.1, 3.0, 3.0])


@pytest.mark.parametrize(("end", "found"), [
    ("", {"requests_sampled": 2}),
    ("-more", {"requests_malformed": 1, "requests_sampled": 1}),
    (" " * 40, {"requests_malformed": 1, "requests_sampled": 1}),
])  # fmt: skip
@pytest.mark.parametrize("size", [1, 3, 5, 12, 13, 67, 68])
def test_a_line_in_many_segments_is_put_together(tmp_path, size, end, found):
    """It says what it says in one; each segment is one of those that are looked at."""
    whole = long_request().replace(b"-01\r\n", b"-01" + end.encode() + b"\r\n")
    begin = whole.index(b"traceparent")
    cut = [begin, *range(begin + size, begin + min(25 * size, 71), size)]
    _, counts = asked(tmp_path, whole[: begin + 1], *(whole[a + 1 : b + 1] for a, b in pairwise([*cut, len(whole)])))
    assert counts == found


@pytest.mark.parametrize("begin", ["t", "trace", "tracestate", "traceparen", "traceparent"])
@pytest.mark.parametrize("rest", ["", ": y", "s: 1, 2, 3, 4", "-id: x"])
def test_a_line_that_only_begins_like_it_hides_none_behind_it(tmp_path, begin, rest):
    """Cut anywhere, it is passed over; only one that is the header, and says nothing, counts."""
    is_header = begin + rest == "traceparent: y"
    for cut in range(len(begin) + 1):
        whole = long_request(begin + rest)
        at = whole.index(f"\r\n{begin}{rest}".encode()) + 2 + cut
        parts = [whole[:at], whole[at : at + len(begin) - cut + 1], whole[at + len(begin) - cut + 1 :]]
        counts = asked(tmp_path, *parts)[1]
        assert counts == ({"requests_sampled": 1, "requests_malformed": 1} if is_header else {"requests_sampled": 2})


@pytest.mark.parametrize("size", [536, 1220, 1448, 1460, 8960])
def test_eight_kib_are_looked_through_in_segments_of_any_usual_size(tmp_path, size):
    """Each takes whole windows, so that the more there are the less is looked at; those of the least MSS (RFC 9293 3.7.1) hold
    less than that.
    """
    whole = long_request("X: " + "x" * (8192 if size > 536 else 6000))
    parts = [whole[at : at + size] for at in range(0, len(whole), size)]
    exchanges, found = asked(tmp_path, *parts)
    assert (len(exchanges), found) == (2, {"requests_sampled": 2})


def lines(whole: bytes) -> list[bytes]:
    """A request as clients write it that send line by line."""
    return whole.splitlines(keepends=True)


@pytest.mark.parametrize(("parts", "found"), [
    (lines(long_request()), {"requests_sampled": 2}),
    (lines(long_request(*["X: y"] * 24)), {"requests_sampled": 2}),
    (lines(long_request(*["X: y"] * 27)), {"requests_sampled": 1, "requests_cut": 1}),
    (lines(long_request(COOKIE)), {"requests_sampled": 2}),
    (lines(long_request(flags="00")), {"requests_sampled": 1, "requests_unsampled": 1}),
    (lines(long_request().replace(b"parent: 00", b"parent: 0x")), {"requests_sampled": 1, "requests_malformed": 1}),
    (lines(long_request().replace(b"traceparent", b"tracepalent")), {"requests_sampled": 1, "requests_absent": 1}),
    (lines(long_request().replace(b"traceparent", b"x")), {"requests_sampled": 1, "requests_absent": 1}),
    ([b"GET / HTTP/1.1\r\n\r", b"\n"], {"requests_sampled": 1, "requests_absent": 1}),
    ([b"GET / HTTP/1.1\r\nt", b"e: x\r\n" + long_request()[16:]], {"requests_sampled": 2}),
    ([b"GET / HTTP/1.1\r\n", b"te", b": x\r\n" + long_request()[16:]], {"requests_sampled": 2}),
    ([b"GET / HTTP/1.1\r\nx", b"x", b"traceparent: 00\r\n" + long_request()[16:]], {"requests_sampled": 2}),
])  # fmt: skip
def test_headers_come_line_by_line(tmp_path, parts, found):
    """As many segments as there are windows, whatever a line begins like."""
    assert asked(tmp_path, *parts)[1] == found


def test_a_server_that_answers_before_the_headers_are_over_ends_the_search(tmp_path):
    """It refuses them (408, 431): whether the context was still to come nobody knows."""
    talk = Talk().ask(1.0, long_request()[:30]).answer(1.5, reply(status="431 Request Header Fields Too Large"))
    talk.ask(2.0, request(1)).answer(2.1, reply())
    exchanges, replayed = told(tmp_path, talk)
    assert [each["parent_span_id"] for each in exchanges] == [PARENTS[1]]
    assert counted(replayed) == {"requests_cut": 1, "requests_sampled": 1}


def test_what_is_sent_again_meanwhile_is_looked_at_once(tmp_path):
    """And is counted to the exchange."""
    whole = long_request(COOKIE)
    talk = Talk().ask(1.0, whole[:1400]).again(1.2, "client", whole[:1400])
    talk.ask(1.3, whole[1400:2800]).ask(1.4, whole[2800:]).answer(2.0, reply())
    (only,), replayed = told(tmp_path, talk)
    assert (only["request_retransmits"], only["request_bytes"], seconds(only)[:2]) == (1, len(whole), [1.0, 1.4])
    assert counted(replayed) == {"requests_sampled": 1}


def test_a_segment_that_is_missing_ends_the_search(tmp_path):
    """What it held may have been a context."""
    whole = long_request(COOKIE)
    talk = Talk().ask(1.0, whole[:1400]).say(1.1, "client", whole[1400:2800], lost=True).ask(1.2, whole[2800:])
    exchanges, replayed = told(tmp_path, talk.answer(2.0, reply()))
    assert (exchanges, counted(replayed)) == ([], {"requests_cut": 1})


@pytest.mark.parametrize("flags", [0, FIN | ACK, RST])
def test_headers_that_never_end_are_no_exchange(tmp_path, flags):
    """The connection stays open, is closed or reset: counted once, and told to nobody."""
    talk = Talk().ask(1.0, long_request()[:30])
    if flags:
        talk.end(2.0, "client", flags)
    exchanges, replayed = told(tmp_path, talk.pass_time(40.0))
    assert (exchanges, counted(replayed)) == ([], {"requests_cut": 1})


def test_a_body_is_no_header(tmp_path):
    """Behind the headers nothing is looked for, in the same segment or in the next."""
    body = b"\n" + traceparent(0).encode() + b"\r\n"
    whole = b"POST /cart HTTP/1.1\r\nX: " + b"x" * 1500 + b"\r\n\r\n"
    for parts in ([whole + body], [whole, body], [whole[:800], whole[800:] + body]):
        assert asked(tmp_path, *parts)[1] == {"requests_absent": 1, "requests_sampled": 1}
