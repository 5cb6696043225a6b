"""Where a response begins, and what ends an exchange: interim responses, early ones, other protocols, and silence."""

from __future__ import annotations

import pytest

from proto.columns import ExchangeEnd, HttpMethod
from tests.support.packets.pcap import ACK, FIN, RST, SECOND, START
from tests.support.packets.talks.http_talk import PARENTS, Talk, counted, reply, request, seconds, told

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </s.css>; rel=preload; as=style\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\nDate: Tue, 14 Nov 2023 22:13:21 GMT\r\nServer: nginx\r\nConnection: keep-alive\r\n\r\n"


def ended(exchange):
    """Why it is over, and when, in seconds after START."""
    return exchange["exchange_end"], round((exchange["end_unix_ns"] - START) / SECOND, 3)


@pytest.mark.parametrize("interim", [
    b"HTTP/1.1 100 Continue\r\n\r\n",
    CONTINUE,
    b"HTTP/1.1 100\n\n",
    b"HTTP/1.0 102 Processing\r\n\r\n",
    b"HTTP/1.1 199 \r\nX: " + b"y" * 4000 + b"\r\n\r\n",
    HINTS,
])  # fmt: skip
def test_an_interim_response_is_none(tmp_path, interim):
    """Told by its code, however long it is: the server's wait lasts from the body to the final status line."""
    talk = (
        Talk().ask(1.0, request(0)).answer(1.1, interim).ask(1.2, b"body" * 100).ask(1.3, b"body" * 100).answer(1.8, reply(500))
    )
    (exchange,), _ = told(tmp_path, talk)
    assert seconds(exchange) == [1.0, 1.3, 1.8, 1.8]
    assert (exchange["request_bytes"], exchange["response_bytes"]) == (1000, len(interim) + 500)


def test_hints_end_no_wait(tmp_path):
    """The client says nothing to them, and asks again when the response is there."""
    talk = Talk().ask(1.0, request(0)).answer(1.05, HINTS).answer(1.1, HINTS).answer(1.5, reply()).ask(2.0, request(1))
    first, second = told(tmp_path, talk)[0]
    assert (seconds(first), ended(first)) == ([1.0, 1.0, 1.5, 1.5], (ExchangeEnd.NEXT_REQUEST, 1.5))
    assert seconds(second) == [2.0, 2.0, None, None]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 12, 13, 30, 100, 1000])
def test_responses_may_be_cut_anywhere(tmp_path, size):
    """Two interim ones and the final one, in segments of one size: the first byte of the final status line is what counts."""
    said, final = CONTINUE + HINTS, reply(300)
    talk = Talk().ask(1.0, request(0))
    whole = said + final
    for number, at in enumerate(range(0, len(whole), size)):
        talk.answer(1.1 + number / 1000, whole[at : at + size])
    (exchange,), _ = told(tmp_path, talk)
    begins, last = 1.1 + len(said) // size / 1000, 1.1 + (len(whole) - 1) // size / 1000
    assert seconds(exchange) == [1.0, 1.0, round(begins, 3), round(last, 3)]


def test_an_interim_response_may_be_of_any_length(tmp_path):
    """Longer than is looked at in one go, with the final response right behind it in one segment of a large packet."""
    long = b"HTTP/1.1 103 Early Hints\r\n" + b"Link: </x>; rel=preload\r\n" * 400 + b"\r\n"
    talk = Talk().ask(1.0, request(0)).answer(1.2, long).answer(1.3, long + reply()).answer(1.4, b"x" * 50)
    (exchange,), _ = told(tmp_path, talk)
    assert seconds(exchange) == [1.0, 1.0, 1.3, 1.4]


def test_an_early_response_leaves_no_wait(tmp_path):
    """413 while the body is still being sent: the rest belongs to the request, which ends after the response began."""
    talk = Talk().ask(1.0, request(0)).answer(1.05, reply(45, "413 Too Large")).ask(1.06, b"y" * 1000).ask(1.07, b"y" * 1000)
    talk.end(2.0, "client", FIN | ACK).end(2.001, "server", FIN | ACK)
    (exchange,), replayed = told(tmp_path, talk)
    assert (seconds(exchange), exchange["request_bytes"]) == ([1.0, 1.07, 1.05, 1.05], 2200)
    assert ended(exchange) == (ExchangeEnd.CLOSED, 1.07)
    assert counted(replayed) == {"requests_sampled": 1}


def test_a_request_follows_an_early_response(tmp_path):
    """After the rest of the body, in whatever segments; it has its own times."""
    talk = Talk().ask(1.0, request(0)).answer(1.05, reply(60, "401 Unauthorized")).ask(1.06, b"y" * 1000).ask(1.5, request(1))
    first, second = told(tmp_path, talk.answer(1.6, reply()))[0]
    assert (seconds(first), first["exchange_end"]) == ([1.0, 1.06, 1.05, 1.05], ExchangeEnd.NEXT_REQUEST)
    assert seconds(second) == [1.5, 1.5, 1.6, 1.6]
    assert (first["request_bytes"], second["request_bytes"]) == (1200, 200)


def test_method_and_status_are_told(tmp_path):
    """Every method of RFC 9110, PATCH, others as such; the final response's status. A method in pieces is not read."""
    talk, methods = Talk(), [method.name for method in HttpMethod if method]
    for number, method in enumerate(methods):
        talk.ask(1.0 + number / 100, request(0, line=f"{method} /x HTTP/1.1")).answer(1.005 + number / 100, reply(0, "404 No"))
    talk.ask(2.0, b"P").ask(2.0, request(1, line="OST / HTTP/1.1")).answer(2.1, reply(0, "100 Continue") + reply(0, "201 Oh"))
    found = [(each["http_method"], each["http_status"]) for each in told(tmp_path, talk)[0]]
    assert found == [*((HttpMethod[method], 404) for method in methods), (HttpMethod.UNKNOWN, 201)]


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "200 OK", "500 "])
def test_a_response_without_a_body_is_one(tmp_path, status):
    """HEAD, 204, 304: it is over with its head."""
    talk = (
        Talk()
        .ask(1.0, request(0, line="HEAD /cart HTTP/1.1"))
        .answer(1.1, reply(0, status))
        .ask(2.0, request(1))
        .answer(2.1, reply(0))
    )
    assert [seconds(exchange) for exchange in told(tmp_path, talk)[0]] == [[1.0, 1.0, 1.1, 1.1], [2.0, 2.0, 2.1, 2.1]]


@pytest.mark.parametrize(("line", "status", "reason"), [
    ("GET /chat HTTP/1.1", "101 Switching Protocols", "switched"),
    ("CONNECT shop:443 HTTP/1.1", "200 Connection established", "tunnel"),
    ("CONNECT shop:443 HTTP/1.1", "204 ", "tunnel"),
])  # fmt: skip
def test_an_exchange_ends_where_the_connection_becomes_another(tmp_path, line, status, reason):
    """After 101, and after a tunnel is open, both ends say what they like: none of it is looked at. It is counted."""
    talk = Talk().ask(1.0, request(0, line=line)).answer(1.05, reply(0, "100 Continue")).answer(1.1, reply(129, status))
    talk.ask(1.2, b"\x81\x05hello").answer(1.3, b"\x81\x02hi").ask(9.0, request(1)).answer(9.1, reply())
    (exchange,), replayed = told(tmp_path, talk)
    assert (seconds(exchange), ended(exchange)) == ([1.0, 1.0, 1.1, 1.1], (ExchangeEnd.SWITCHED, 1.1))
    assert counted(replayed) == {"requests_sampled": 1, f"connections_{reason}": 1}


def test_a_tunnel_that_was_refused_is_none(tmp_path):
    """The connection goes on as it was."""
    talk = (
        Talk()
        .ask(1.0, request(0, line="CONNECT shop:443 HTTP/1.1"))
        .answer(1.1, reply(80, "407 Proxy Authentication Required"))
    )
    first, second = told(tmp_path, talk.ask(2.0, request(1)).answer(2.1, reply()))[0]
    assert (first["exchange_end"], seconds(second)) == (ExchangeEnd.NEXT_REQUEST, [2.0, 2.0, 2.1, 2.1])


def test_what_is_no_response_is_not_told_as_one(tmp_path):
    """The server says something else than HTTP/1."""
    talk = Talk().ask(1.0, request(0)).answer(1.1, b"ICY 200 OK, and so on").ask(2.0, request(1)).answer(2.1, reply())
    exchanges, replayed = told(tmp_path, talk)
    assert [exchange["parent_span_id"] for exchange in exchanges] == [PARENTS[1]]
    assert counted(replayed) == {"requests_sampled": 2, "requests_unpaired": 1}


def quiet(talk):
    """A connection whose client keeps it alive, without a response to its request of 1.0 s."""
    return (
        talk.again(11.0, "client", b".").acknowledge(11.01, "server").again(21.0, "client", b".").acknowledge(21.01, "server")
    )


@pytest.mark.parametrize(("steps", "expected"), [
    ([("server", FIN), ("client", FIN), ("server", 0), ("client", 0)], (ExchangeEnd.CLOSED, 25.0)),
    ([("client", FIN), ("server", 0), ("server", FIN), ("client", 0)], (ExchangeEnd.CLOSED, 27.0)),
    ([("server", FIN), ("client", 0), ("client", RST), ("client", RST)], (ExchangeEnd.CLOSED, 25.0)),
    ([("client", FIN), ("server", 0), ("server", RST), ("server", RST)], (ExchangeEnd.RESET, 27.0)),
    ([("server", RST), ("server", RST)], (ExchangeEnd.RESET, 25.0)),
    ([("server", FIN), ("client", 0)], (ExchangeEnd.CLOSED, 25.0)),
])  # fmt: skip
def test_an_unanswered_request_ends_with_what_ended_it(tmp_path, steps, expected):
    """The server's last word, or a reset; no keep-alive before, no acknowledgment, further RST or other connection after."""
    talk = quiet(Talk().ask(1.0, request(0)).acknowledge(1.01, "server"))
    for number, (sender, flags) in enumerate(steps):
        talk.end(25.0 + number, sender, flags | ACK)
        talk.at[sender] += flags == FIN
    (exchange,), _ = told(tmp_path, talk.pass_time(300.0))
    assert seconds(exchange) == [1.0, 1.0, None, None]
    assert ended(exchange) == expected


def test_an_unanswered_request_ends_when_its_connection_is_given_up(tmp_path):
    """Not with the packet of another connection at which that is seen."""
    talk = quiet(Talk().ask(1.0, request(0)).acknowledge(1.01, "server")).pass_time(900.0)
    (exchange,), _ = told(tmp_path, talk, tcp_idle_seconds=100)
    assert (seconds(exchange), ended(exchange)) == ([1.0, 1.0, None, None], (ExchangeEnd.IDLE_TIMEOUT, 121.01))


def test_an_unanswered_request_does_not_outlast_the_next_connection(tmp_path):
    """The client's port is used again: nobody waits any more."""
    talk = quiet(Talk().ask(1.0, request(0)).acknowledge(1.01, "server"))
    talk.handshake(40.0, client_isn=90_000, server_isn=70_000)
    (exchange,), _ = told(tmp_path, talk.pass_time(41.0))
    end, at = ended(exchange)
    assert (end, seconds(exchange)) == (ExchangeEnd.IDLE_TIMEOUT, [1.0, 1.0, None, None])
    assert 40 <= at <= 42
