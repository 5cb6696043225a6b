"""Which RST ends a connection, what it cut short, and what an end's silence or giving up is called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.columns import End, Outcome, Reason, Role
from tests.support.packets.pcap import ACK, FIN, PSH, RST, SYN, Conversation, Frame, write
from tests.support.packets.replayed import replay_files, replay_frames

ASKED = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def asked(seconds: float = 1.0, *, answered: bool = True, acknowledged: bool = True) -> Conversation:
    """A handshake, a request, and what came of it."""
    talk = Conversation().handshake()
    talk.tcp(seconds, "client", PSH | ACK, seq=1001, ack=5001, payload=ASKED)
    talk.tcp(seconds + 0.01, "server", ACK, seq=5001, ack=1001 + len(ASKED))
    if answered:
        talk.tcp(seconds + 0.1, "server", PSH | ACK, seq=5001, ack=1001 + len(ASKED), payload=ANSWER)
        if acknowledged:
            talk.tcp(seconds + 0.11, "client", ACK, seq=1001 + len(ASKED), ack=5001 + len(ANSWER))
    return talk


CLIENT_NEXT, SERVER_NEXT = 1001 + len(ASKED), 5001 + len(ANSWER)


@pytest.mark.parametrize("way", [2**31 - 1, 500_000_000, -500_000_000, 70_000, -2])
def test_a_reset_outside_of_the_window_ends_nothing(tmp_path, way):
    """Whoever receives it discards it (RFC 9293 3.10.7.4): the connection, which rests for minutes after it, is one."""
    talk = asked().tcp(2, "server", RST, seq=SERVER_NEXT + way)
    talk.tcp(200, "client", FIN | ACK, seq=CLIENT_NEXT, ack=SERVER_NEXT)
    talk.tcp(200.1, "server", FIN | ACK, seq=SERVER_NEXT, ack=CLIENT_NEXT + 1)
    records = replay_frames(tmp_path, talk.frames).records
    assert {record["flow_id"] for record in records} == {1}
    assert records[0]["outcome"] == Outcome.ESTABLISHED
    assert (records[-1]["outcome"], records[-1]["closed_by"], records[-1]["rx_resets"]) == (Outcome.CLOSED, End.LOCAL, 1)


@pytest.mark.parametrize("way", [0, 1, 60_000])
def test_a_reset_in_the_window_ends_the_connection(tmp_path, way):
    """At the number that is expected next, or behind what the capture missed of what was sent before it."""
    record = replay_frames(tmp_path, asked().tcp(2, "server", RST, seq=SERVER_NEXT + way).frames).only
    assert (record["outcome"], record["closed_by"], record["reason"]) == (Outcome.RESET, End.REMOTE, Reason.END_OF_FLOW)


def test_a_connection_that_goes_on_behind_a_reset_was_not_reset(tmp_path):
    """A RST in the window that is not its end's own: the end that seems to have sent it goes on sending what is new."""
    talk = asked().tcp(2, "server", RST, seq=SERVER_NEXT + 9)
    talk.tcp(2.5, "client", PSH | ACK, seq=CLIENT_NEXT, ack=SERVER_NEXT, payload=ASKED)
    talk.tcp(2.6, "server", PSH | ACK, seq=SERVER_NEXT, ack=CLIENT_NEXT + len(ASKED), payload=ANSWER)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["outcome"], record["closed_by"], record["responses"]) == (Outcome.ESTABLISHED, End.NONE, 2)


def test_what_the_other_end_had_under_way_does_not_undo_a_reset(tmp_path):
    """Segments of the end that is being told cross the RST; each is answered by another RST."""
    talk = asked().tcp(2, "client", RST | ACK, seq=CLIENT_NEXT, ack=SERVER_NEXT)
    talk.tcp(2.001, "server", PSH | ACK, seq=SERVER_NEXT, ack=CLIENT_NEXT, payload=b"more")
    talk.tcp(2.002, "client", RST, seq=CLIENT_NEXT)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["outcome"], record["closed_by"], record["cut_short"]) == (Outcome.RESET, End.LOCAL, 1)


def test_a_reset_long_after_both_fins_leaves_the_connection_closed(tmp_path):
    """The record of the connection is told by then: what is left is a RST of no connection that is known, and says no more."""
    talk = asked().tcp(2, "client", FIN | ACK, seq=CLIENT_NEXT, ack=SERVER_NEXT)
    talk.tcp(2.001, "server", FIN | ACK, seq=SERVER_NEXT, ack=CLIENT_NEXT + 1)
    talk.tcp(2.002, "client", ACK, seq=CLIENT_NEXT + 1, ack=SERVER_NEXT + 1)
    talk.tcp(5, "server", RST | ACK, seq=SERVER_NEXT + 1, ack=CLIENT_NEXT + 1)
    closed, stray = replay_frames(tmp_path, talk.frames).records
    assert (closed["outcome"], closed["closed_by"]) == (Outcome.CLOSED, End.LOCAL)
    assert (stray["outcome"], stray["role"], stray["rx_resets"], stray["cut_short"]) == (Outcome.UNKNOWN, Role.UNKNOWN, 1, 0)


def test_a_client_that_gives_up_asking_has_timed_out(tmp_path):
    """Four SYNs, no answer, and the client's RST: nobody answered."""
    talk = Conversation()
    for second in (0, 1, 3, 7):
        talk.tcp(second, "client", SYN, seq=1000)
    record = replay_frames(tmp_path, talk.tcp(8, "client", RST, seq=1001).frames).only
    assert (record["outcome"], record["closed_by"], record["syn_repeats"]) == (Outcome.TIMEOUT, End.LOCAL, 3)


def test_a_client_that_resets_at_once_may_have_been_answered(tmp_path):
    """Where one direction passes the capture, a scanner's SYN and RST do not say that nobody answered between them."""
    talk = Conversation().tcp(0, "client", SYN, seq=1000).tcp(0.01, "client", RST, seq=1001)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["outcome"], record["closed_by"]) == (Outcome.HALF_OPEN, End.LOCAL)


@pytest.mark.parametrize("given_up", [70, 127, 500])
@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_server_that_was_never_acknowledged_resets_nothing(tmp_path, given_up, acknowledged):
    """It repeats its SYN-ACK, gives up and returns to LISTEN (RFC 9293 3.10.7.4): half open, although the client said ACK."""
    talk = Conversation().tcp(0, "client", SYN, seq=1000)
    for second in (0, 1, 3, 7, 15, 31, 63):
        talk.tcp(second + 0.01, "server", SYN | ACK, seq=5000, ack=1001)
        if acknowledged:
            talk.tcp(second + 0.02, "client", ACK, seq=1001, ack=5001)
    records = replay_frames(tmp_path, talk.tcp(given_up, "server", RST, seq=5001).frames).records
    assert {record["outcome"] for record in records} <= {Outcome.HALF_OPEN, Outcome.ESTABLISHED, Outcome.UNKNOWN}
    last = [record for record in records if record["flow_id"] == 1][-1]
    assert last["outcome"] == Outcome.HALF_OPEN
    assert (last["syn_ack_repeats"], last["cut_short"]) == (6, 0)


def test_a_request_that_was_never_accepted_was_cut_short(tmp_path):
    """The server's queue is full: it repeats its SYN-ACK while the client sends its request, and resets it in the end."""
    talk = Conversation().handshake()
    talk.tcp(0.1, "client", PSH | ACK, seq=1001, ack=5001, payload=ASKED)
    for second in (1, 3, 7):
        talk.tcp(second, "server", SYN | ACK, seq=5000, ack=1001).tcp(second + 0.01, "client", ACK, seq=1028, ack=5001)
    record = replay_frames(tmp_path, talk.tcp(15, "server", RST, seq=5001).frames).only
    assert (record["outcome"], record["closed_by"], record["cut_short"]) == (Outcome.HALF_OPEN, End.REMOTE, 1)


@pytest.mark.parametrize(("answer", "outcome"), [
    ({"flags": RST | ACK, "ack": 1001}, Outcome.REFUSED),
    ({"flags": RST | ACK, "ack": 77}, Outcome.HALF_OPEN),
    ({"flags": RST, "seq": 0}, Outcome.HALF_OPEN),
])  # fmt: skip
def test_only_a_reset_that_acknowledges_the_syn_refuses_it(tmp_path, answer, outcome):
    """In SYN-SENT a RST counts where its ACK does (RFC 9293 3.10.7.3); any other is discarded."""
    record = replay_frames(tmp_path, Conversation().tcp(0, "client", SYN, seq=1000).tcp(0.01, "server", **answer).frames).only
    assert record["outcome"] == outcome


def test_a_client_that_has_its_answer_and_resets_took_nothing(tmp_path):
    """Everything was answered and acknowledged: an abortive close, as a probe's with SO_LINGER 0."""
    record = replay_frames(tmp_path, asked().tcp(2, "client", RST | ACK, seq=CLIENT_NEXT, ack=SERVER_NEXT).frames).only
    assert (record["outcome"], record["closed_by"], record["cut_short"]) == (Outcome.RESET, End.LOCAL, 0)


@pytest.mark.parametrize("closed", [False, True])
def test_a_server_that_resets_an_open_client_may_have_had_more_to_say(tmp_path, closed):
    """Nobody knows whether its response was whole; a client that has closed does not miss it."""
    talk = asked()
    if closed:
        talk.tcp(1.9, "client", FIN | ACK, seq=CLIENT_NEXT, ack=SERVER_NEXT)
    record = replay_frames(tmp_path, talk.tcp(2, "server", RST | ACK, seq=SERVER_NEXT, ack=CLIENT_NEXT + closed).frames).only
    assert (record["outcome"], record["closed_by"], record["cut_short"]) == (Outcome.RESET, End.REMOTE, not closed)


def test_a_reset_acknowledges_what_it_says_it_does(tmp_path):
    """A probe closes at once when it has its answer: its RST is the answer's acknowledgment."""
    talk = asked(acknowledged=False).tcp(1.11, "client", RST | ACK, seq=CLIENT_NEXT, ack=SERVER_NEXT)
    assert replay_frames(tmp_path, talk.frames).only["cut_short"] == 0


def test_a_reset_cuts_short_what_is_under_way(tmp_path):
    """A request without response, and a response that was not all acknowledged; whoever sends the RST."""
    waiting = asked(answered=False).tcp(2, "server", RST, seq=5001)
    assert replay_frames(tmp_path, waiting.frames).only["cut_short"] == 1
    given_up = asked(answered=False).tcp(2, "client", RST, seq=CLIENT_NEXT)
    assert replay_frames(tmp_path, given_up.frames).only["cut_short"] == 1
    half = asked(acknowledged=False).tcp(2, "client", RST, seq=CLIENT_NEXT)
    assert replay_frames(tmp_path, half.frames).only["cut_short"] == 1


def test_a_reset_behind_the_own_fin_declines_what_comes_yet(tmp_path):
    """A client that is done and has said so answers the server's farewell (TLS sends one) by a RST: nothing went wrong."""
    talk = asked().tcp(2, "client", FIN | ACK, seq=CLIENT_NEXT, ack=SERVER_NEXT)
    talk.tcp(2.01, "server", PSH | ACK, seq=SERVER_NEXT, ack=CLIENT_NEXT + 1, payload=b"close notify")
    record = replay_frames(tmp_path, talk.tcp(2.02, "client", RST, seq=CLIENT_NEXT + 1).frames).only
    assert (record["outcome"], record["closed_by"], record["cut_short"]) == (Outcome.RESET, End.LOCAL, 0)


@given(
    position=st.integers(2, 6),
    sender=st.sampled_from(["client", "server"]),
    way=st.one_of(st.integers(2**17, 2**31 - 2**17), st.integers(-(2**31) + 2**17, -(2**17))),
)
def test_forged_resets_change_no_outcome(tmp_path_factory, position, sender, way):
    """Wherever in a connection it is, and from whichever end: outside of the window it is counted, and that is all."""
    talk = asked().tcp(2, "client", FIN | ACK, seq=CLIENT_NEXT, ack=SERVER_NEXT)
    talk.tcp(2.01, "server", FIN | ACK, seq=SERVER_NEXT, ack=CLIENT_NEXT + 1)
    talk.tcp(2.02, "client", ACK, seq=CLIENT_NEXT + 1, ack=SERVER_NEXT + 1)
    start = 1001 if sender == "client" else 5001
    forged = Conversation().tcp(0, sender, RST, seq=start + way).frames[0]
    frames = list(talk.frames)
    frames.insert(position + 1, Frame(frames[position].time_ns + 1, forged.data))
    record = replay_files([write(tmp_path_factory.mktemp("forged") / "frames.pcap", frames)]).only
    assert (record["outcome"], record["closed_by"], record["cut_short"]) == (Outcome.CLOSED, End.LOCAL, 0)
    assert record["tx_resets"] + record["rx_resets"] == 1
