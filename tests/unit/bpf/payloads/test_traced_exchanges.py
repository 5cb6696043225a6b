"""An exchange of an application's trace: which bytes are the request's and the response's, when they went, and how it ended."""

from __future__ import annotations

import pytest

from proto.columns import FIRST_EXCHANGE, ExchangeEnd, Observer, Reason, Role
from tests.support.packets.pcap import ACK, FIN, PSH, RST, SECOND, START
from tests.support.packets.replayed import replay_frames
from tests.support.packets.talks.http_talk import PARENTS, Talk, counted, reply, request, seconds, told


def test_every_request_of_a_connection_is_an_exchange(tmp_path):
    """Requests and responses of several segments, kept alive; each has its own caller, times and bytes."""
    talk = Talk()
    talk.say(1.00, "client", request(0)).say(1.01, "client", b"more").say(1.05, "server", reply(700))
    talk.say(1.06, "server", b"x" * 300).say(1.5, "client", request(1)).say(1.6, "server", reply(70))
    exchanges, replayed = told(tmp_path, talk)
    first, second = exchanges
    assert (seconds(first), seconds(second)) == ([1.0, 1.01, 1.05, 1.06], [1.5, 1.5, 1.6, 1.6])
    assert [first["parent_span_id"], second["parent_span_id"]] == PARENTS[:2]
    assert (first["request_bytes"], first["response_bytes"], second["request_bytes"]) == (204, 1000, 200)
    assert [exchange["record"] - FIRST_EXCHANGE for exchange in exchanges] == [0, 1]
    assert [exchange["exchange_end"] for exchange in exchanges] == [ExchangeEnd.NEXT_REQUEST, ExchangeEnd.SHUTDOWN]
    (flow,) = replayed.records
    for name in ("flow_id", "local_address", "remote_port", "local_isn", "remote_isn", "flow_start_unix_ns"):
        assert first[name] == flow[name]
    assert (first["reason"], first["observer"], first["role"]) == (Reason.EXCHANGE, Observer.CAPTURE, Role.CLIENT)
    assert (first["start_unix_ns"], first["end_unix_ns"]) == (first["request_first_unix_ns"], first["response_last_unix_ns"])


def test_a_request_without_sampled_context_ends_the_one_before_and_tells_nothing(tmp_path):
    """Sampled, not sampled, without any, sampled."""
    talk = Talk()
    talk.say(1.0, "client", request(0)).say(1.1, "server", reply()).say(2.0, "client", request(1, "00")).say(
        2.1, "server", reply()
    )
    talk.say(3.0, "client", b"GET / HTTP/1.1\r\n\r\n").say(3.1, "server", reply()).say(4.0, "client", request(3))
    exchanges, replayed = told(tmp_path, talk)
    assert [exchange["parent_span_id"] for exchange in exchanges] == [PARENTS[0], PARENTS[3]]
    assert counted(replayed) == {"requests_sampled": 2, "requests_unsampled": 1, "requests_absent": 1}


def test_a_lost_request_is_no_wait(tmp_path):
    """At the client: the request's last segment was sent again, so the request took long, and the server answered at once."""
    talk = Talk()
    talk.say(1.0, "client", request(0)).say(1.001, "client", b"rest").again(1.201, "client", b"rest")
    talk.say(1.21, "server", reply(100))
    (exchange,), _ = told(tmp_path, talk)
    assert seconds(exchange) == [1.0, 1.201, 1.21, 1.21]
    assert (exchange["request_retransmits"], exchange["response_retransmits"], exchange["request_bytes"]) == (1, 0, 204)


def test_what_is_repeated_in_vain_moves_nothing(tmp_path):
    """A request that had arrived, and a response that had, come again."""
    talk = Talk()
    talk.say(1.0, "client", request(0)).acknowledge(1.01, "server").again(1.2, "client", request(0))
    talk.say(1.5, "server", reply(100)).acknowledge(1.51, "client").again(1.8, "server", reply(100))
    (exchange,), _ = told(tmp_path, talk)
    assert seconds(exchange) == [1.0, 1.0, 1.5, 1.5]
    assert (exchange["request_retransmits"], exchange["response_retransmits"], exchange["response_bytes"]) == (1, 1, 100)


def test_a_hole_in_a_response_is_part_of_its_transfer(tmp_path):
    """The middle of a response was lost and comes last: only then is it all there."""
    talk = Talk()
    talk.say(1.0, "client", request(0)).say(1.1, "server", reply(100)).acknowledge(1.101, "client")
    talk.say(1.101, "server", b"2" * 100, lost=True).say(1.102, "server", b"3" * 100).again(
        1.4, "server", b"2" * 100, before=100
    )
    (exchange,), _ = told(tmp_path, talk)
    assert seconds(exchange) == [1.0, 1.0, 1.1, 1.4]
    assert exchange["response_retransmits"] == 1


def test_a_request_whose_first_segment_was_overtaken_is_missed(tmp_path):
    """It is looked at when it begins only; that it was missed is counted."""
    talk = Talk()
    talk.say(1.0, "client", request(0)).say(1.1, "server", reply())
    talk.say(2.0, "client", request(1), lost=True).say(2.0, "client", b"rest").again(2.001, "client", request(1), before=4)
    talk.say(2.1, "server", reply())
    exchanges, replayed = told(tmp_path, talk)
    assert [exchange["parent_span_id"] for exchange in exchanges] == PARENTS[:1]
    assert (replayed.counters["requests_overtaken"], replayed.counters["requests_sampled"]) == (1, 1)


@pytest.mark.parametrize(("sender", "answer"), [("server", b""), ("client", b""), ("server", reply(200))])
def test_a_reset_ends_it(tmp_path, sender, answer):
    """Before or amid the response: the exchange ends when the connection does."""
    talk = Talk().say(1.0, "client", request(0))
    if answer:
        talk.say(1.2, "server", answer)
    talk.tcp(1.5, sender, RST | ACK, seq=talk.at[sender], ack=talk.at["client" if sender == "server" else "server"])
    talk.frames.append(type(talk.frames[0])(START + 9 * SECOND, talk.frames[0].data))  # another connection's SYN, later
    (exchange,), _ = told(tmp_path, talk)
    assert exchange["exchange_end"] == ExchangeEnd.RESET
    assert seconds(exchange) == [1.0, 1.0, *([1.2, 1.2] if answer else [None, None])]
    assert exchange["end_unix_ns"] == START + 3 * SECOND // 2


def test_a_closed_connection_ends_it(tmp_path):
    """A response that ends with the connection; the exchange ends with the response's last byte."""
    talk = Talk().say(1.0, "client", request(0)).say(1.2, "server", reply(200), FIN | PSH | ACK)
    talk.tcp(1.3, "client", FIN | ACK, seq=talk.at["client"], ack=talk.at["server"] + 1)
    talk.tcp(1.4, "server", ACK, seq=talk.at["server"] + 1, ack=talk.at["client"] + 1)
    (exchange,), _ = told(tmp_path, talk)
    assert (exchange["exchange_end"], exchange["end_unix_ns"]) == (ExchangeEnd.CLOSED, START + 12 * SECOND // 10)


def test_a_pause_ends_a_response(tmp_path):
    """What comes after two seconds of silence belongs to nothing; the connection's next request does."""
    talk = Talk().say(1.0, "client", request(0)).say(1.2, "server", reply(200)).say(3.1, "server", b"y" * 100)
    talk.say(6.0, "server", b"z" * 50).say(7.0, "client", request(1)).say(7.1, "server", reply())
    exchanges, _ = told(tmp_path, talk)
    assert [exchange["exchange_end"] for exchange in exchanges] == [ExchangeEnd.IDLE_TIMEOUT, ExchangeEnd.SHUTDOWN]
    assert (seconds(exchanges[0]), exchanges[0]["response_bytes"]) == ([1.0, 1.0, 1.2, 3.1], 300)
    assert seconds(exchanges[1]) == [7.0, 7.0, 7.1, 7.1]


def test_a_response_that_goes_on_is_told_in_time(tmp_path):
    """A stream: it is told after as long as a flow's record takes, as far as it came."""
    talk = Talk().say(1.0, "client", request(0))
    for second in range(1, 60):
        talk.say(second + 0.5, "server", reply(100) if second == 1 else b"x" * 100)
    (exchange,), _ = told(tmp_path, talk, active_interval_seconds=10)
    assert exchange["exchange_end"] == ExchangeEnd.ACTIVE_TIMEOUT
    assert (seconds(exchange), exchange["response_bytes"]) == ([1.0, 1.0, 1.5, 10.5], 1000)


def test_a_request_is_waited_for_as_long_as_its_flow_lives(tmp_path):
    """Longer than an active interval; it is told when the response has come."""
    talk = Talk().say(1.0, "client", request(0)).acknowledge(20.0, "client").say(45.0, "server", reply())
    (exchange,), replayed = told(tmp_path, talk, active_interval_seconds=10)
    assert seconds(exchange) == [1.0, 1.0, 45.0, 45.0]
    assert len(replayed.records) > 1


def test_a_response_that_never_comes_is_told_when_the_flow_is_given_up(tmp_path):
    """The exchange has no response, and lasts until then."""
    talk = Talk().say(1.0, "client", request(0))
    talk.frames.append(type(talk.frames[0])(START + 60 * SECOND, talk.frames[0].data))
    (exchange,), _ = told(tmp_path, talk, tcp_idle_seconds=20)
    assert (exchange["exchange_end"], seconds(exchange)) == (ExchangeEnd.IDLE_TIMEOUT, [1.0, 1.0, None, None])
    assert START + 21 * SECOND <= exchange["end_unix_ns"] <= START + 61 * SECOND


def test_a_table_that_is_emptied_under_pressure_loses_no_exchange(tmp_path):
    """More connections than slots: what has to leave takes its exchange along."""
    frames = []
    for number in range(200):
        talk = Talk()
        talk.client_port = 40000 + number
        talk.frames.clear()
        talk.handshake(number / 100).say(number / 100 + 0.02, "client", request(0)).say(number / 100 + 0.03, "server", reply())
        frames += talk.frames
    replayed = replay_frames(tmp_path, sorted(frames, key=lambda frame: frame.time_ns), trace_context=True, capacity=64)
    assert len(replayed.exchanges) == replayed.counters["requests_sampled"] == 200
