"""DNS questions that have records of their own: which, how many, and what they say."""

from __future__ import annotations

import numpy as np
import pytest

from proto.columns import FIRST_EXCHANGE, MOST_QUESTIONS, NO_ANSWER, Reason, Role
from services.capture.flows.datagrams import DatagramRules
from services.capture.names.question_records import QuestionRules
from services.capture.names.reader import NameReader
from tests.support.packets.pcap import Conversation
from tests.support.packets.replayed import replay_frames
from tests.support.packets.talks import dns
from tests.unit.capture.names.test_questions import answer, emitted, question

MS, SECOND = 1_000_000, 1_000_000_000
# name: when it is asked and answered, and by which code
ASKED = {"here.org": (0, 0.01, 0), "slow.org": (1, 1.15, 0), "broken.org": (2, 2.01, 2), "nowhere.org": (3, 3.01, 3)}


def talk():
    """A resolver's quick answer, a slow one, a failure, a name that is not there, and one that it never answers."""
    conversation = Conversation(client_port=35353, server_port=53)
    for number, (name, (asked, answered, code)) in enumerate(ASKED.items()):
        conversation.udp(asked, "client", dns.question(number, name))
        conversation.udp(answered, "server", dns.answer(number, name, code=code))
    return conversation.udp(4, "client", dns.question(9, "lost.org")).udp(5, "client", dns.question(9, "lost.org"))


@pytest.mark.parametrize(("rules", "told"), [
    (QuestionRules(), ["slow.org", "broken.org", "lost.org"]),
    (QuestionRules(slow_ns=200 * MS), ["broken.org", "lost.org"]),
    (QuestionRules("all"), [*ASKED, "lost.org"]),
    (QuestionRules("off"), []),
])  # fmt: skip
def test_what_failed_or_was_slow_is_a_record_of_its_own(tmp_path, rules, told):
    """Or all, or none; a name that is not there has not failed. What the flow's record counts, it counts as before."""
    replayed = replay_frames(tmp_path, talk().frames, names=NameReader(rules=rules))
    assert [record["dns_first_name"] for record in replayed.questions] == told
    assert [record["dns_codes"] for record in replayed.records] == [[2, 0, 1, 1, 0, 0, 0, 1]]


def test_it_lies_between_the_flows_ends_from_question_to_answer(tmp_path):
    """Of the flow it has the ends, and nothing that is summed up over records."""
    replayed = replay_frames(tmp_path, talk().frames, names=NameReader())
    flow, (slow, broken, lost) = replayed.only, replayed.questions
    ends = ("flow_id", "role", "transport", "local_address", "remote_address", "local_port", "remote_port")
    assert [slow[name] for name in ends] == [flow[name] for name in ends]
    assert (slow["role"], slow["reason"]) == (Role.CLIENT, Reason.EXCHANGE)
    assert slow["start_unix_ns"] == flow["start_unix_ns"] + SECOND
    assert slow["end_unix_ns"] - slow["start_unix_ns"] == slow["dns_first_time_ns"] == 150 * MS
    assert (broken["dns_first_code"], lost["dns_first_code"], lost["dns_first_time_ns"]) == (2, NO_ANSWER, 0)
    assert lost["end_unix_ns"] - lost["start_unix_ns"] == SECOND  # where the capture ends
    assert [record["record"] - FIRST_EXCHANGE for record in (slow, broken, lost)] == [0, 1, 2]
    assert not any(np.any(slow[name]) for name in ("tx_bytes", "rx_packets", "questions", "dns_codes", "responses"))


def test_repeats_are_those_of_the_question(tmp_path):
    """The same number and name again; another name under the same number is another question."""
    conversation = Conversation(client_port=35353, server_port=53)
    for second in (0, 1, 2):
        conversation.udp(second, "client", dns.question(1, "slow.org"))
    conversation.udp(2.5, "server", dns.answer(1, "slow.org"))
    conversation.udp(3, "client", dns.question(1, "lost.org")).udp(3.5, "client", dns.question(1, "lost.org"))
    conversation.udp(4, "client", dns.question(1, "other.org")).udp(4.01, "server", dns.answer(1, "other.org"))
    replayed = replay_frames(tmp_path, conversation.frames, names=NameReader(rules=QuestionRules("all")))
    said = [(record["dns_first_name"], record["dns_first_repeats"]) for record in replayed.questions]
    assert said == [("slow.org", 2), ("lost.org", 1), ("other.org", 0)]
    flow = replayed.only
    assert (flow["dns_first_repeats"], flow["dns_slowest_repeats"], flow["question_repeats"]) == (2, 1, 3)


@pytest.mark.parametrize(("group", "told"), [("224.0.0.251", []), ("10.0.0.2", ["printer.local"])])
def test_what_a_group_is_asked_waits_for_no_answer(tmp_path, group, told):
    """Multicast DNS: who knows answers in another flow, or nobody does, and nothing has failed."""
    talk = Conversation(server=group, client_port=5353, server_port=5353)
    talk.udp(0, "client", dns.question(0, "printer.local")).udp(1, "client", dns.question(0, "printer.local"))
    replayed = replay_frames(tmp_path, talk.frames, names=NameReader(), datagrams=DatagramRules(dns_ports=(5353,)))
    assert [record["dns_first_name"] for record in replayed.questions] == told
    assert replayed.only["request_waits"] == len(told)


def test_they_are_bounded_and_counted():
    """Beside one record; the next has room again. What the bus refused is told with the next, by the same numbers."""
    names = NameReader()

    def fail(numbers):
        names.read(
            piece
            for number in numbers
            for piece in (question(number, "a.org", SECOND), answer(number, "a.org", 2 * SECOND, SECOND))
        )

    fail(range(MOST_QUESTIONS - 1))
    emission = emitted(1)
    refused = names.tell(emission)
    assert len(refused.records.told) == MOST_QUESTIONS - 1
    fail(range(3))
    names.put_back(emission, refused)
    again = names.tell(emission)
    assert list(again.records.numbers) == list(range(MOST_QUESTIONS))
    assert names.counters["pieces_question_without_record"] == 2
    fail(range(MOST_QUESTIONS + 1))
    assert len(names.tell(emission).records.told) == MOST_QUESTIONS
    assert names.counters["pieces_question_without_record"] == 3
