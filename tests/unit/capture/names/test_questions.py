"""What a flow's records say of the names that were looked up in it."""

from __future__ import annotations

import numpy as np
import pytest

from proto.columns import NO_ANSWER, UNANSWERED
from services.capture.flows.table import Emission
from services.capture.names import questions
from services.capture.names.dns_message import read_message
from services.capture.names.pieces import HEADER, Piece, PieceKind
from services.capture.names.reader import NameReader
from tests.support.packets.c_layout import printed_by_c
from tests.support.packets.pcap import Conversation
from tests.support.packets.replayed import replay_frames
from tests.support.packets.talks import dns

MS, SECOND = 1_000_000, 1_000_000_000
NAME = "cart.shop.svc.cluster.local"


def talk_with_a_resolver(client_port=35353, **ends):
    """An empty talk."""
    return Conversation(client_port=client_port, server_port=53, **ends)


def told(folder, talk, **how):
    """The records of a talk."""
    return replay_frames(folder, talk.frames, names=NameReader(), **how).records


def test_a_record_tells_the_first_question_and_the_slowest(tmp_path):
    """A and AAAA at once: name, type, code, records and time of both, and how many of each code."""
    talk = talk_with_a_resolver().udp(0, "client", dns.question(1, NAME)).udp(0.001, "client", dns.question(2, NAME, dns.AAAA))
    talk.udp(0.011, "server", dns.answer(1, NAME, records=2)).udp(0.2, "server", dns.answer(2, NAME, dns.AAAA, code=3))
    (record,) = told(tmp_path, talk)
    first = [record[f"dns_first_{what}"] for what in ("name", "type", "code", "answers", "time_ns")]
    slowest = [record[f"dns_slowest_{what}"] for what in ("name", "type", "code", "answers", "time_ns")]
    assert first == [NAME, dns.A, 0, 2, 11 * MS]
    assert slowest == [NAME, dns.AAAA, 3, 0, 199 * MS]
    assert record["dns_codes"] == [1, 0, 0, 1, 0, 0, 0, 0]


def test_a_question_that_is_never_answered_is_told_in_the_flows_last_record(tmp_path):
    """By name; of all it took longest. However often it was asked, it is one."""
    talk = talk_with_a_resolver().udp(0, "client", dns.question(1, "a.org")).udp(0.5, "server", dns.answer(1, "a.org"))
    for second in (1, 6, 11):
        talk.udp(second, "client", dns.question(2, "lost.org"))
    records = told(tmp_path, talk)
    assert records[0]["dns_first_name"] == "a.org"
    last = records[-1]
    assert (last["dns_slowest_name"], last["dns_slowest_code"], last["dns_slowest_time_ns"]) == ("lost.org", NO_ANSWER, 0)
    assert sum(record["dns_codes"][UNANSWERED] for record in records) == last["request_waits"] == 1


def test_a_long_lived_flow_gives_up_on_a_question_after_a_while(tmp_path):
    """A forwarder's socket lives for hours: its records do not wait for its end to say what was never answered."""
    talk = talk_with_a_resolver().udp(0, "client", dns.question(1, "lost.org"))
    for second in range(1, 100):
        talk.udp(second, "client", dns.question(100 + second, NAME)).udp(
            second + 0.01, "server", dns.answer(100 + second, NAME)
        )
    records = told(tmp_path, talk)
    assert [record["dns_codes"][UNANSWERED] for record in records] == [1] + [0] * (len(records) - 1)
    assert sum(record["dns_codes"][0] for record in records) == 99


def test_a_number_used_for_another_question_gives_the_first_one_up(tmp_path):
    """Nothing can answer it any more."""
    talk = talk_with_a_resolver().udp(0, "client", dns.question(7, "slow.org")).udp(1, "client", dns.question(7, NAME))
    talk.udp(1.1, "server", dns.answer(7, NAME))
    (record,) = told(tmp_path, talk)
    assert (record["dns_first_name"], record["dns_codes"][UNANSWERED], record["dns_codes"][0]) == ("slow.org", 1, 1)


def test_a_refusal_without_a_question_is_told_of_what_was_asked(tmp_path):
    """A header that says FORMERR."""
    talk = talk_with_a_resolver().udp(0, "client", dns.question(7, NAME, edns=True)).udp(0.1, "server", dns.refusal(7))
    (record,) = told(tmp_path, talk)
    assert (record["dns_first_name"], record["dns_first_code"]) == (NAME, 1)


def test_an_answer_whose_question_was_not_captured_is_not_told(tmp_path):
    """It may be anybody's; the next question has its own."""
    talk = talk_with_a_resolver().udp(0, "server", dns.answer(1, "other.org")).udp(1, "client", dns.question(2, NAME))
    talk.udp(1.1, "server", dns.answer(2, NAME))
    (record,) = told(tmp_path, talk)
    assert (record["dns_first_name"], sum(record["dns_codes"])) == (NAME, 1)


def test_nothing_is_read_where_nothing_is_asked_for(tmp_path):
    """`off`: no piece comes, and no column."""
    talk = talk_with_a_resolver().udp(0, "client", dns.question(1, NAME)).udp(0.5, "server", dns.answer(1, NAME))
    names = NameReader("off")
    (record,) = replay_frames(tmp_path, talk.frames, names=names).records
    assert "dns_codes" not in record
    assert not any(names.counters.values())


@pytest.mark.parametrize(("asked", "kept"), [
    ("db.secret.corp.example", "corp.example"), ("corp.example", "corp.example"), ("DB.Corp.Example", "corp.example"),
    ("notcorp.example", "notcorp.example"), ("example", "example"),
])  # fmt: skip
def test_of_a_name_in_a_hidden_domain_the_domain_is_kept(tmp_path, asked, kept):
    """Of the name itself and of all below it, in any case, however the setting writes it; its codes and times are told."""
    talk = talk_with_a_resolver().udp(0, "client", dns.question(1, asked)).udp(0.5, "server", dns.answer(1, asked, code=3))
    names = NameReader("all", (".CORP.example.",))
    (record,) = replay_frames(tmp_path, talk.frames, names=names).records
    assert (record["dns_first_name"], record["dns_slowest_name"], record["dns_first_code"]) == (kept, kept, 3)


def test_a_refused_record_is_told_with_the_next(tmp_path):
    """What the bus refused merges: the first stays the first, counts add up."""
    names = NameReader()
    names.read([question(1, "a.org", 1 * SECOND), answer(1, "a.org", 2 * SECOND, 1 * SECOND)])
    emission = emitted(1)
    refused = names.tell(emission)
    names.read([question(2, "b.org", 3 * SECOND), answer(2, "b.org", 9 * SECOND, 3 * SECOND)])
    names.put_back(emission, refused)
    again = names.tell(emission)
    assert again.names == ("a.org", "b.org")
    assert (again.columns["dns_first_name"][0], again.columns["dns_slowest_name"][0]) == (0, 1)
    assert again.columns["dns_codes"][0].tolist() == [2] + [0] * 7
    assert "dns_codes" not in names.tell(emission).columns


def test_what_waits_is_bounded_and_counted(monkeypatch):
    """A flow that asks without end, and flows without end: the oldest go."""
    monkeypatch.setattr(questions, "MOST_FLOWS", 10)
    names = NameReader()
    names.read(question(number, "a.org", SECOND) for number in range(questions.MOST_WAITING + 3))
    names.read(question(1, "a.org", SECOND, flow=flow) for flow in range(2, 14))
    assert names.counters["pieces_forgotten"] == 3 + 3


def test_a_piece_lies_as_the_compiler_puts_it(tmp_path):
    """Offsets of the header's members, its size and the kinds."""
    members = ("flow_id", "time_ns", "since_ns", "owner", "payload_bytes", "held", "kind", "from", "place")
    lines = [f'printf("{name} %zu\\n", offsetof(struct piece, {name}));' for name in members]
    lines += ['printf("size %zu\\n", sizeof(struct piece));', 'printf("kinds %d\\n", PIECE_KINDS);']
    packed = HEADER.pack(*(1,) * len(members))
    ones = [at for at, byte in enumerate(packed) if byte]
    printed = printed_by_c('#include "engine/piece.h"', lines, folder=tmp_path)
    assert printed == {**dict(zip(members, ones, strict=True)), "size": HEADER.size, "kinds": len(PieceKind)}


def question(number, name, time_ns, flow=1):
    """A piece that asks."""
    content = dns.question(number, name)
    return Piece(flow, time_ns, 0, 0, len(content), len(content), PieceKind.DNS, 0, content)


def answer(number, name, time_ns, since_ns, flow=1):
    """A piece that answers."""
    content = dns.answer(number, name)
    return Piece(flow, time_ns, since_ns, 0, len(content), len(content), PieceKind.DNS, 1, content)


def emitted(*flow_ids):
    """What is needed of an emission that tells these flows."""
    count = len(flow_ids)
    columns = {"flow_id": np.array(flow_ids, np.uint64)} | dict.fromkeys(("request_waits", "role"), np.zeros(count, np.uint8))
    columns |= dict.fromkeys(("local_address", "remote_address"), np.zeros(count, "|V16"))
    columns["flow_start_unix_ns"] = np.zeros(count, "<u8")
    return Emission(np.arange(count, dtype=np.uint32), columns, 10 * SECOND, np.zeros(count, np.bool_))


@pytest.mark.parametrize("length", range(12))
def test_what_is_no_message_is_counted(length):
    """A piece shorter than a header."""
    names = NameReader()
    names.read([question(1, "a.org", 1)._replace(content=dns.question(1, "a.org")[:length])])
    assert names.counters["pieces_unreadable"] == 1
    assert read_message(b"") is None
