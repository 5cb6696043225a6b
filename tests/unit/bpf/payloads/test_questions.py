"""Questions that have numbers, DNS and ping: each answer to its question, however many are under way."""

from __future__ import annotations

import pytest

from proto.columns import Reason, Role
from services.capture.flows.datagrams import DatagramRules
from tests.support.packets.pcap import Conversation, Frame, icmp
from tests.support.packets.replayed import replay_frames
from tests.support.packets.talks import dns

MS = 1_000_000
NAME = "cart.shop.svc.cluster.local"


def names(client_port=35353, server_port=53, **ends):
    """An empty talk with a resolver."""
    return Conversation(client_port=client_port, server_port=server_port, **ends)


def test_two_questions_at_once_are_two(tmp_path):
    """A and AAAA are asked at once; the answers come in the other order: each waits since its own question."""
    talk = names().udp(0, "client", dns.question(1, NAME)).udp(0.0001, "client", dns.question(2, NAME, dns.AAAA))
    talk.udp(0.01, "server", dns.answer(2, NAME, dns.AAAA)).udp(0.2, "server", dns.answer(1, NAME))
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["role"], record["questions"], record["responses"], record["request_waits"]) == (Role.CLIENT, 2, 2, 0)
    assert (record["response_time_max_ns"], record["response_time_sum_ns"]) == (200 * MS, 209_900_000)
    assert record["request_transfer_sum_ns"] == record["response_transfer_sum_ns"] == 0


def test_a_question_asked_again_waits_since_it_was_first_asked(tmp_path):
    """The well-known 5 s of Kubernetes: one of two answers was lost, the resolver library asks again after 5 s, one by one."""
    talk = names().udp(0, "client", dns.question(1, NAME)).udp(0.0001, "client", dns.question(2, NAME, dns.AAAA))
    talk.udp(0.001, "server", dns.answer(2, NAME, dns.AAAA)).udp(5, "client", dns.question(1, NAME))
    talk.udp(5.001, "server", dns.answer(1, NAME)).udp(5.0011, "client", dns.question(2, NAME, dns.AAAA))
    talk.udp(5.002, "server", dns.answer(2, NAME, dns.AAAA))
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["questions"], record["question_repeats"], record["responses"]) == (3, 1, 3)
    assert record["response_time_max_ns"] == 5001 * MS
    assert record["response_time_histogram"][18] == 1


def test_an_answer_whose_question_was_not_captured_answers_nothing(tmp_path):
    """A capture that begins with an answer: who asked is known, how long it took is not, and it answers nothing asked later."""
    talk = names().udp(0, "server", dns.answer(1, NAME)).udp(0.01, "client", dns.question(2, NAME))
    talk.udp(0.02, "server", dns.answer(1, NAME)).udp(0.243, "server", dns.answer(2, NAME))
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["role"], record["local_port"], record["questions"], record["responses"]) == (Role.CLIENT, 35353, 1, 1)
    assert record["response_time_max_ns"] == 233 * MS


def test_questions_that_are_never_answered_are_counted(tmp_path):
    """Three of four, one of which was sent three times; the record says what still waits."""
    talk = names()
    for second, number in ((0, 1), (1, 2), (2, 2), (3, 2), (4, 3), (5, 4)):
        talk.udp(second, "client", dns.question(number, NAME))
    talk.udp(5.05, "server", dns.answer(1, NAME))
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["questions"], record["question_repeats"], record["responses"], record["request_waits"]) == (4, 2, 1, 3)
    assert record["response_time_max_ns"] == 5050 * MS


def test_what_was_told_in_one_record_is_not_told_in_the_next(tmp_path):
    """A flow that goes on: each record has its own questions, and what waits is a state."""
    talk = names()
    for number in range(100):
        talk.udp(number, "client", dns.question(number, NAME))
        if number % 10:
            talk.udp(number + 0.5, "server", dns.answer(number, NAME))
    records = replay_frames(tmp_path, talk.frames).records
    assert len(records) > 2
    assert records[0]["reason"] == Reason.ACTIVE_TIMEOUT
    assert sum(record["questions"] for record in records) == 100
    assert sum(record["responses"] for record in records) == sum(sum(r["response_time_histogram"]) for r in records) == 90
    assert records[-1]["request_waits"] == 10


def test_a_number_used_again_for_another_name_is_another_question(tmp_path):
    """The first was never answered; the second waits since it was asked itself, and an answer to the first is none to it."""
    talk = names().udp(0, "client", dns.question(7, "slow.example.org")).udp(20, "client", dns.question(7, NAME))
    talk.udp(20.01, "server", dns.answer(7, "slow.example.org")).udp(20.03, "server", dns.answer(7, NAME))
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["questions"], record["question_repeats"], record["responses"], record["request_waits"]) == (2, 0, 1, 1)
    assert record["response_time_max_ns"] == 30 * MS


@pytest.mark.parametrize(("asked", "answered"), [
    (dns.question(9, "WwW.eXaMpLe.oRg"), dns.answer(9, "www.example.org")),
    (dns.question(9, "", 2), dns.answer(9, "", 2)),
    (dns.question(9, ".".join(["x" * 61] * 4)), dns.answer(9, ".".join(["x" * 61] * 4))),
    (dns.question(9, NAME, edns=True), dns.answer(9, NAME, code=3)),
    (dns.question(9, NAME, edns=True), dns.refusal(9)),
], ids=["other case", "the root", "the longest name", "no such name", "a header only"])  # fmt: skip
def test_an_answer_is_known_by_its_number_and_question(tmp_path, asked, answered):
    """Whatever the case of letters and the length of the name, with records or without, and with a question or none."""
    for length in range(4):
        prefix = [dns.question(100 + length, "y" * (length + 1)), dns.answer(100 + length, "y" * (length + 1))]
        talk = names().udp(0, "client", prefix[0]).udp(0.001, "server", prefix[1])
        talk.udp(1, "client", asked).udp(1.25, "server", answered)
        record = replay_frames(tmp_path, talk.frames).only
        assert (record["responses"], record["response_time_max_ns"]) == (2, 250 * MS)


def test_what_servers_ask_each_other_from_port_53_is_told_by_the_messages(tmp_path):
    """The port says nothing: both ends have it. What the one asks is told, what the other asks is not taken for its answers."""
    talk = names(client_port=53)
    talk.udp(0, "client", dns.question(1, "a.org")).udp(0.01, "server", dns.question(1, "b.org"))
    talk.udp(0.02, "client", dns.answer(1, "b.org")).udp(0.03, "server", dns.answer(1, "a.org"))
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["role"], record["questions"], record["responses"]) == (Role.CLIENT, 1, 1)
    assert record["response_time_max_ns"] == 30 * MS


def test_further_ports_are_read_as_dns_where_a_setting_says_so(tmp_path):
    """Without it two questions at once are datagrams that do not take turns, of which nothing is told."""
    talk = names(server_port=8053).udp(0, "client", dns.question(1, NAME)).udp(0.001, "client", dns.question(2, NAME))
    talk.udp(0.2, "server", dns.answer(1, NAME)).udp(0.2, "server", dns.answer(2, NAME))
    told = replay_frames(tmp_path, talk.frames, datagrams=DatagramRules(dns_ports=(53, 8053))).only
    assert (told["role"], told["questions"], told["response_time_max_ns"]) == (Role.CLIENT, 2, 200 * MS)
    other = replay_frames(tmp_path, talk.frames).only
    assert (other["role"], other["questions"], other["responses"]) == (Role.UNKNOWN, 0, 0)


def test_what_is_no_dns_is_a_datagram_like_others(tmp_path):
    """Something else at port 53: the port tells who serves, and answers are told while both take turns."""
    talk = names().udp(0, "client", b"hello").udp(0.25, "server", b"you")
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["role"], record["questions"], record["responses"]) == (Role.CLIENT, 0, 1)
    assert record["response_time_max_ns"] == 250 * MS


@pytest.mark.parametrize("kept", [14 + 20 + 8 + 12, 14 + 20 + 8 + 12 + 10])
def test_a_cut_capture_has_the_numbers(tmp_path, kept):
    """Of messages of which only the header, or the beginning of the question, was captured."""
    talk = names().udp(0, "client", dns.question(1, NAME)).udp(0.001, "client", dns.question(2, NAME, dns.AAAA))
    talk.udp(0.01, "server", dns.answer(2, NAME, dns.AAAA)).udp(0.2, "server", dns.answer(1, NAME))
    frames = [Frame(frame.time_ns, frame.data[:kept], len(frame.data)) for frame in talk.frames]
    record = replay_frames(tmp_path, frames).only
    assert (record["questions"], record["responses"], record["response_time_max_ns"]) == (2, 2, 200 * MS)


def test_many_questions_of_many_flows_wait_at_once(tmp_path):
    """A forwarder with 500 questions under way on each of 20 sockets: every one is matched."""
    frames = []
    for port in range(20):
        talk = names(client_port=40000 + port)
        for number in range(500):
            talk.udp(number / 10000, "client", dns.question(number * 131 % 65536, f"host{number}.example.org"))
            talk.udp(3 + number / 5000, "server", dns.answer(number * 131 % 65536, f"host{number}.example.org"))
        frames += talk.frames
    frames.sort(key=lambda frame: frame.time_ns)
    records = replay_frames(tmp_path, frames).records
    assert [(record["questions"], record["responses"], record["request_waits"]) for record in records] == [(500, 500, 0)] * 20
    assert {record["response_time_max_ns"] for record in records} == {3_049_900_000}


@pytest.mark.parametrize(("client", "server", "request_type", "reply_type"), [
    ("10.0.0.1", "10.0.0.2", 8, 0),
    ("2001:db8::1", "2001:db8::2", 128, 129),
])  # fmt: skip
def test_an_echo_and_its_reply_are_one_flow(tmp_path, client, server, request_type, reply_type):
    """Ping: the identifier stands for the ports, the requester is the client, each reply a response."""
    talk = Conversation(client, server)
    for second in (0, 1):
        talk.icmp(second, "client", icmp(request_type, identifier=77, sequence=second))
        talk.icmp(second + 0.02, "server", icmp(reply_type, identifier=77, sequence=second))
    talk.icmp(1.5, "client", icmp(request_type, identifier=78))
    first, second = replay_frames(tmp_path, talk.frames).records
    assert (first["local_port"], first["remote_port"], first["role"]) == (77, 77, Role.CLIENT)
    assert (first["responses"], first["response_time_sum_ns"], first["icmp_type"]) == (2, 40 * MS, request_type)
    assert second["local_port"] == 78


def test_a_reply_seen_first_knows_its_requester(tmp_path):
    """An echo reply without its request: local is who asked."""
    talk = Conversation().icmp(0, "server", icmp(0, identifier=5)).icmp(1, "client", icmp(8, identifier=5))
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["role"], record["local_address"][-1], record["tx_packets"], record["rx_packets"]) == (Role.CLIENT, 1, 1, 1)


def test_pings_under_way_at_once_are_told_apart(tmp_path):
    """By sequence number: a path of 300 ms, a ping every 100 ms, the second lost and the third's reply there twice."""
    talk = Conversation()
    for sequence in range(5):
        talk.icmp(sequence / 10, "client", icmp(8, identifier=77, sequence=sequence))
        if sequence != 1:
            talk.icmp(sequence / 10 + 0.3, "server", icmp(0, identifier=77, sequence=sequence))
    talk.icmp(0.51, "server", icmp(0, identifier=77, sequence=2))
    talk.frames.sort(key=lambda frame: frame.time_ns)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["questions"], record["responses"], record["request_waits"]) == (5, 4, 1)
    assert (record["response_time_sum_ns"], record["response_time_max_ns"]) == (1200 * MS, 300 * MS)


def test_an_icmp_error_is_a_flow_of_its_kind(tmp_path):
    """Errors have no ports and no role; type and code keep them apart."""
    talk = Conversation().icmp(0, "client", icmp(3, 1)).icmp(1, "client", icmp(3, 3)).icmp(2, "client", icmp(3, 3))
    first, second = replay_frames(tmp_path, talk.frames).records
    assert [(record["icmp_type"], record["icmp_code"], record["tx_packets"]) for record in (first, second)] == [
        (3, 1, 1),
        (3, 3, 2),
    ]
    assert (first["role"], first["local_port"]) == (Role.UNKNOWN, 0)
