"""What the engine makes of TCP: handshakes, outcomes, roles, repeats."""

from __future__ import annotations

import pytest

from proto.columns import End, Outcome, Reason, Role
from tests.support.packets.pcap import ACK, FIN, PSH, RST, SECOND, START, SYN, Conversation
from tests.support.packets.replayed import replay_frames


def ns(seconds: float) -> int:
    """Unix time of a moment of the test's capture."""
    return START + round(seconds * SECOND)


def closed(talk: Conversation, seconds: float, *, client_seq: int, server_seq: int) -> Conversation:
    """The client closes first, the server answers."""
    talk.tcp(seconds, "client", FIN | ACK, seq=client_seq, ack=server_seq)
    talk.tcp(seconds + 0.01, "server", FIN | ACK, seq=server_seq, ack=client_seq + 1)
    return talk.tcp(seconds + 0.02, "client", ACK, seq=client_seq + 1, ack=server_seq + 1)


def test_a_whole_connection_has_all_its_times_and_its_outcome(tmp_path):
    """Handshake times, both initial sequence numbers, role, flags and who closed first are those of the packets."""
    talk = closed(Conversation().handshake(), 0.5, client_seq=1001, server_seq=5001)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["role"], record["outcome"], record["closed_by"]) == (Role.CLIENT, Outcome.CLOSED, End.LOCAL)
    assert record["reason"] == Reason.END_OF_FLOW
    assert (record["syn_unix_ns"], record["syn_ack_unix_ns"]) == (ns(0), ns(0.005))
    assert record["handshake_ack_unix_ns"] == ns(0.010)
    assert (record["isn_seen"], record["local_isn"], record["remote_isn"]) == (3, 1000, 5000)
    assert record["tx_tcp_flags"] == record["rx_tcp_flags"] == SYN | ACK | FIN
    assert (record["start_unix_ns"], record["end_unix_ns"], record["flow_start_unix_ns"]) == (ns(0), ns(0.52), ns(0))
    assert (record["tx_packets"], record["rx_packets"], record["tx_bytes"], record["rx_bytes"]) == (4, 2, 160, 80)
    assert (record["local_port"], record["remote_port"]) == (40000, 80)
    assert record["local_address"] == bytes(10) + b"\xff\xff\x0a\x00\x00\x01"


def test_the_server_closing_first_is_told(tmp_path):
    """`closed_by` is the end of the first FIN."""
    talk = Conversation().handshake()
    talk.tcp(1, "server", FIN | ACK, seq=5001, ack=1001).tcp(1.1, "client", FIN | ACK, seq=1001, ack=5002)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["outcome"], record["closed_by"]) == (Outcome.CLOSED, End.REMOTE)


def test_a_half_closed_connection_is_still_open(tmp_path):
    """After one FIN the other direction goes on; nothing is over until the second."""
    talk = Conversation().handshake()
    talk.tcp(1, "client", FIN | ACK, seq=1001, ack=5001)
    for second in range(2, 10):
        talk.tcp(second, "server", ACK, seq=5001 + second * 10, ack=1002, payload=bytes(10))
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["outcome"], record["closed_by"], record["reason"]) == (Outcome.ESTABLISHED, End.LOCAL, Reason.SHUTDOWN)


def test_a_reset_answering_a_syn_is_a_refusal(tmp_path):
    """RST to SYN: refused, by the remote end."""
    talk = Conversation().tcp(0, "client", SYN, seq=7).tcp(0.001, "server", RST | ACK, ack=8)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["outcome"], record["closed_by"], record["reason"]) == (Outcome.REFUSED, End.REMOTE, Reason.END_OF_FLOW)
    assert record["isn_seen"] == 1


def test_asking_again_after_a_refusal_may_succeed(tmp_path):
    """A stack that repeats its refused SYN is still in the same attempt."""
    talk = Conversation().tcp(0, "client", SYN, seq=1000).tcp(0.001, "server", RST | ACK, ack=1001).handshake(0.5)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["outcome"], record["closed_by"], record["syn_repeats"]) == (Outcome.ESTABLISHED, End.NONE, 1)


@pytest.mark.parametrize("sender", ["client", "server"])
def test_a_reset_of_an_open_connection_names_its_sender(tmp_path, sender):
    """RST after the handshake: reset, by whoever sent it."""
    talk = Conversation().handshake().tcp(1, sender, RST, seq=1001 if sender == "client" else 5001)
    record = replay_frames(tmp_path, talk.frames).only
    assert record["outcome"] == Outcome.RESET
    assert record["closed_by"] == (End.LOCAL if sender == "client" else End.REMOTE)


def test_a_reset_after_both_fins_changes_nothing(tmp_path):
    """The connection had closed; what comes late does not rewrite that."""
    talk = closed(Conversation().handshake(), 0.5, client_seq=1001, server_seq=5001).tcp(0.6, "server", RST, seq=5002)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["outcome"], record["closed_by"], record["rx_packets"]) == (Outcome.CLOSED, End.LOCAL, 3)


def test_retries_of_an_unanswered_syn_are_one_attempt_that_timed_out(tmp_path):
    """SYNs that back off by powers of two belong to one flow, whose last record says timeout."""
    talk = Conversation()
    for second in (0, 1, 3, 7, 15, 31, 63):
        talk.tcp(second, "client", SYN, seq=9)
    talk.frames += Conversation(client_port=1).udp(200, "client").frames
    replayed = replay_frames(tmp_path, talk.frames)
    attempts = [record for record in replayed.records if record["transport"] == 6]
    assert {record["flow_id"] for record in attempts} == {1}
    assert [record["record"] for record in attempts] == list(range(len(attempts)))
    assert [record["outcome"] for record in attempts[:-1]] == [Outcome.HALF_OPEN] * (len(attempts) - 1)
    assert (attempts[-1]["outcome"], attempts[-1]["reason"]) == (Outcome.TIMEOUT, Reason.IDLE_TIMEOUT)
    assert (attempts[-1]["syn_repeats"], attempts[-1]["closed_by"]) == (6, End.NONE)
    assert sum(record["tx_packets"] for record in attempts) == 7


def test_an_answered_syn_without_an_ack_stays_half_open(tmp_path):
    """SYN, SYN-ACK, silence (or the scanner's RST): never established, and no timeout of the connect either."""
    silent = Conversation().tcp(0, "client", SYN, seq=1).tcp(0.01, "server", SYN | ACK, seq=2, ack=2)
    silent.tcp(1, "server", SYN | ACK, seq=2, ack=2)
    scan = Conversation(client_port=40001).tcp(0, "client", SYN, seq=1).tcp(0.01, "server", SYN | ACK, seq=2, ack=2)
    scan.tcp(0.02, "client", RST, seq=2)
    later = Conversation(client_port=1).udp(50, "client")
    records = replay_frames(tmp_path, silent.frames + scan.frames + later.frames).records
    by_port = {record["local_port"]: record for record in records}
    assert (by_port[40000]["outcome"], by_port[40000]["reason"]) == (Outcome.HALF_OPEN, Reason.IDLE_TIMEOUT)
    assert by_port[40000]["syn_ack_repeats"] == 1
    assert (by_port[40001]["outcome"], by_port[40001]["closed_by"]) == (Outcome.HALF_OPEN, End.LOCAL)
    assert by_port[40001]["reason"] == Reason.END_OF_FLOW


def test_a_connection_joined_later_has_no_outcome(tmp_path):
    """Local is the end with the ephemeral port; what was before is not guessed (who is the client: test_roles.py)."""
    talk = Conversation(server_port=443)
    talk.tcp(0, "server", ACK, seq=50, ack=9, payload=b"late").tcp(0.1, "client", ACK, seq=9, ack=54, payload=b"hm")
    talk.tcp(0.2, "server", ACK, seq=54, ack=11, payload=b"yes")
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["outcome"], record["syn_unix_ns"]) == (Outcome.UNKNOWN, 0)
    assert (record["local_port"], record["remote_port"], record["isn_seen"]) == (40000, 443, 0)


def test_the_sender_of_a_syn_ack_is_the_server(tmp_path):
    """A capture that begins between SYN and SYN-ACK still knows the roles, and the SYN that comes late is taken in."""
    talk = Conversation().tcp(0, "server", SYN | ACK, seq=5000, ack=1001).tcp(0.001, "client", SYN, seq=1000)
    talk.tcp(0.002, "client", ACK, seq=1001, ack=5001)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["role"], record["local_port"], record["outcome"]) == (Role.CLIENT, 40000, Outcome.ESTABLISHED)
    assert (record["isn_seen"], record["local_isn"], record["remote_isn"]) == (3, 1000, 5000)


def test_a_simultaneous_open_is_one_established_connection(tmp_path):
    """Both ends send SYN (RFC 9293 figure 8): the first one is the client, and neither SYN renews the other's flow."""
    talk = Conversation().tcp(0, "client", SYN, seq=100).tcp(0.001, "server", SYN, seq=300)
    talk.tcp(0.002, "client", SYN | ACK, seq=100, ack=301).tcp(0.003, "server", SYN | ACK, seq=300, ack=101)
    talk.tcp(0.004, "client", ACK, seq=101, ack=301)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["role"], record["outcome"], record["isn_seen"]) == (Role.CLIENT, Outcome.ESTABLISHED, 3)
    assert (record["local_isn"], record["remote_isn"], record["syn_repeats"]) == (100, 300, 0)


def test_one_direction_alone_is_established_when_it_says_so(tmp_path):
    """Where only the client's packets pass the capture, its ACK shows that there was a SYN-ACK, but not when."""
    talk = Conversation().tcp(0, "client", SYN, seq=10).tcp(0.01, "client", ACK, seq=11, ack=77)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["outcome"], record["handshake_ack_unix_ns"], record["isn_seen"]) == (Outcome.ESTABLISHED, 0, 1)


def test_a_challenge_ack_completes_no_handshake(tmp_path):
    """A server that still holds an old connection answers a SYN by an ACK of that one (RFC 5961)."""
    talk = Conversation().tcp(0, "client", SYN, seq=1000).tcp(0.01, "server", ACK, seq=9, ack=3_000_000_000)
    record = replay_frames(tmp_path, talk.frames).only
    assert record["outcome"] == Outcome.HALF_OPEN


@pytest.mark.parametrize("ended", [True, False])
def test_a_syn_with_another_number_on_known_ports_is_a_new_flow(tmp_path, ended):
    """A reused port after close (also in TIME-WAIT), or after a close that nobody saw, never continues the old connection."""
    talk = Conversation().handshake(client_isn=1000, server_isn=5000)
    if ended:
        closed(talk, 0.5, client_seq=1001, server_seq=5001)
    talk.handshake(0.6, client_isn=900_000, server_isn=700_000)
    first, second = replay_frames(tmp_path, talk.frames).records
    assert first["outcome"] == (Outcome.CLOSED if ended else Outcome.ESTABLISHED)
    assert first["reason"] == Reason.END_OF_FLOW
    assert (second["flow_id"], second["local_isn"], second["remote_isn"]) == (2, 900_000, 700_000)
    assert (second["record"], second["outcome"], second["flow_start_unix_ns"]) == (0, Outcome.ESTABLISHED, ns(0.6))


def test_a_new_handshake_on_a_connection_joined_later_is_a_new_flow(tmp_path):
    """A SYN where only the middle of an older connection was seen begins its own flow."""
    talk = Conversation().tcp(0, "client", ACK, seq=1, ack=1, payload=b"x").handshake(1)
    assert [record["outcome"] for record in replay_frames(tmp_path, talk.frames).records] == [
        Outcome.UNKNOWN,
        Outcome.ESTABLISHED,
    ]


def test_repeated_payload_is_a_retransmission_across_the_wrap(tmp_path):
    """Segments at or below the highest byte sent are counted per direction, also where sequence numbers wrap."""
    isn = 2**32 - 150
    talk = Conversation().handshake(client_isn=isn)
    for step, offset in enumerate((0, 100, 200, 0, 100, 200, 300)):
        talk.tcp(1 + step / 10, "client", ACK, seq=isn + 1 + offset, ack=5001, payload=bytes(100))
    talk.tcp(2, "server", ACK, seq=5001, ack=isn + 401, payload=bytes(9))
    talk.tcp(2.1, "server", ACK, seq=5001, ack=isn + 401, payload=bytes(9))
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["tx_retransmits"], record["rx_retransmits"]) == (3, 1)
    assert (record["tx_payload_bytes"], record["rx_payload_bytes"]) == (700, 18)


def test_keep_alives_are_no_retransmissions(tmp_path):
    """A probe one below the acknowledged end, with one byte or none, repeats nothing; an unacknowledged byte does."""
    talk = Conversation().handshake().tcp(0.1, "client", PSH | ACK, seq=1001, ack=5001, payload=b"abc")
    talk.tcp(0.2, "server", ACK, seq=5001, ack=1004)
    for second in (10, 20):
        talk.tcp(second, "client", ACK, seq=1003, ack=5001)
        talk.tcp(second + 1, "client", ACK, seq=1003, ack=5001, payload=b"\0")
    talk.tcp(25, "client", PSH | ACK, seq=1004, ack=5001, payload=b"d")
    talk.tcp(25.3, "client", PSH | ACK, seq=1004, ack=5001, payload=b"d")
    assert replay_frames(tmp_path, talk.frames).only["tx_retransmits"] == 1


def test_garbage_flags_and_numbers_are_counted_and_crash_nothing(tmp_path):
    """Every combination of the flags in both directions gives records whose totals add up."""
    talk = Conversation()
    for flags in range(256):
        talk.tcp(flags / 100, "client" if flags & 1 else "server", flags, seq=flags * 123_456_789, ack=~flags, payload=b"x")
    assert replay_frames(tmp_path, talk.frames).total("packets") == 256
