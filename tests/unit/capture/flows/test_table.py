"""Which flows give records when, and that nothing is lost or told twice whatever becomes of a batch."""

from __future__ import annotations

from collections import Counter

import pytest

from proto.columns import NO_INDEX, RAW, End, Observer, Outcome, Reason
from proto.flow_batch import FlowBatch, encode
from proto.subjects import MAX_BATCH_BYTES
from services.capture.flows.share import behind
from services.capture.flows.table import FlowTable, FlowTableSettings
from services.capture.replay.source import ReplaySource
from tests.support.packets.pcap import ACK, FIN, SECOND, START, SYN, Conversation, Frame, ethernet, ip, udp, write
from tests.support.packets.replayed import rows
from tests.support.packets.talks.dns import question


class Table:
    """A flow table over a capture that the test advances by hand."""

    def __init__(self, source, settings=None):
        self.source = source
        self.table = FlowTable(source, settings)
        self.source.open_next_file()

    def at(self, seconds, final=None):
        """Advance to `seconds` after START and return the emissions that are due, unsettled."""
        now = START + round(seconds * SECOND)
        self.source.advance(now)
        return list(self.table.drain(now, final))

    def accepted(self, seconds, final=None):
        """As `at`, but every emission accepted; the records."""
        records = []
        for emission in self.at(seconds, final):
            records += rows(emission)
            self.table.accept(emission)
        return records


@pytest.fixture
def table_of(tmp_path):
    """Makes a Table of frames."""
    opened = []

    def make(frames, settings=None, capacity=64):
        opened.append(
            ReplaySource([write(tmp_path / f"{len(opened)}.pcap", sorted(frames, key=lambda f: f.time_ns))], capacity)
        )
        return Table(opened[-1], settings)

    yield make
    for source in opened:
        source.close()


def steady(seconds, **ends):
    """A datagram a second."""
    talk = Conversation(**ends)
    for second in range(seconds):
        talk.udp(second, "client", b"12345678")
    return talk.frames


def test_an_emission_has_every_raw_column_in_its_type(table_of):
    """Exactly the columns of the wire contract, of the contract's dtypes."""
    (emission,) = table_of(steady(1)).at(0, Reason.SHUTDOWN)
    assert list(emission.columns) == [column.name for column in RAW]
    for column in RAW:
        array = emission.columns[column.name]
        assert array.dtype == column.numpy_dtype.base
        assert array.shape == (1, *column.numpy_dtype.shape)
    assert emission.columns["observer"].tolist() == [Observer.CAPTURE]
    assert emission.columns["local_container"].tolist() == [NO_INDEX]


def test_a_living_flow_gives_a_record_every_interval(table_of):
    """Deltas since the last accepted record, running totals, consecutive numbers, and times that join without overlap."""
    table = table_of(steady(100))
    records = [record for second in range(100) for record in table.accepted(second)]
    records += table.accepted(100, Reason.SHUTDOWN)
    assert [record["record"] for record in records] == [0, 1, 2, 3]
    assert [record["reason"] for record in records] == [Reason.ACTIVE_TIMEOUT] * 3 + [Reason.SHUTDOWN]
    assert [record["tx_packets"] for record in records] == [31, 30, 30, 9]
    assert [record["tx_packets_total"] for record in records] == [31, 61, 91, 100]
    assert [record["tx_payload_bytes"] for record in records] == [248, 240, 240, 72]
    starts = [(record["start_unix_ns"] - START) // SECOND for record in records]
    ends = [(record["end_unix_ns"] - START) // SECOND for record in records]
    assert (starts, ends) == ([0, 31, 61, 91], [30, 60, 90, 99])
    assert {record["flow_start_unix_ns"] for record in records} == {START}


def test_a_flow_that_stands_still_gives_no_active_record(table_of):
    """Two datagrams, then silence: one active record, none while nothing moves, and none at the end where nothing changed."""
    talk = Conversation().udp(0, "client", b"x").udp(1, "client", b"y")
    table = table_of(talk.frames)
    records = [table.accepted(second) for second in range(70)]
    assert [second for second, emitted in enumerate(records) if emitted] == [30]
    assert table.source.used_slots == 0


def test_an_answered_flow_of_datagrams_gives_a_record_when_it_falls_quiet(table_of):
    """A lookup is told two seconds after its answer, by whatever follows in the flow too; nothing twice, nothing left out."""
    talk = Conversation()
    for second in (0, 0.5, 10):
        talk.udp(second, "client", b"question").udp(second + 0.1, "server", b"answer")
    talk.udp(20, "client", b"unanswered")
    table = table_of(talk.frames)
    told = {tick / 10: record for tick in range(900) for record in table.accepted(tick / 10)}
    assert list(told) == [2.6, 12.1, 42.1]
    assert [record["reason"] for record in told.values()] == [Reason.ACTIVE_TIMEOUT] * 3
    assert [record["record"] for record in told.values()] == [0, 1, 2]
    assert [record["responses"] for record in told.values()] == [2, 1, 0]
    assert [record["request_waits"] for record in told.values()] == [0, 0, 1]
    assert [record["tx_packets"] + record["rx_packets"] for record in told.values()] == [4, 2, 1]
    assert len({record["flow_id"] for record in told.values()}) == 1
    assert table.source.used_slots == 0


def test_a_question_that_is_never_answered_is_told_at_the_end(table_of):
    """Waiting while its flow lives, unanswered once that is over: nobody sees a packet between the two."""
    talk = (
        Conversation(server_port=53).udp(0, "client", question(7, "gone.example")).udp(5, "client", question(7, "gone.example"))
    )
    table = table_of(talk.frames)
    told = [record for second in range(70) for record in table.accepted(second)]
    assert [(record["reason"], record["request_waits"]) for record in told] == [
        (Reason.ACTIVE_TIMEOUT, 1),
        (Reason.IDLE_TIMEOUT, 1),
    ]
    assert [(record["tx_packets"], record["questions"]) for record in told] == [(2, 1), (0, 0)]
    assert table.source.used_slots == 0


def test_an_open_connection_that_answered_waits_for_its_interval(table_of):
    """TCP says when it is over: a pause between two requests gives no record."""
    talk = Conversation().handshake()
    talk.tcp(1, "client", ACK, seq=1001, ack=5001, payload=b"q").tcp(1.1, "server", ACK, seq=5001, ack=1002, payload=b"a")
    table = table_of(talk.frames)
    assert table.accepted(20) == []
    (record,) = table.accepted(40)
    assert record["responses"] == 1


def test_a_handshake_gives_its_first_record_when_it_is_over(table_of):
    """A SYN repeated past the active interval and never answered is one record, which says timeout.

    Before, its trace is not known: the second sequence number that the trace id is made of may still come.
    """
    talk = Conversation()
    for second in (0, 1, 3, 7, 15, 29):
        talk.tcp(second, "client", SYN, seq=5)
    table = table_of(talk.frames)
    assert table.accepted(30) == []
    assert table.accepted(70) == []
    (record,) = table.accepted(29 + 1.5 * 29)
    assert (record["outcome"], record["reason"], record["record"]) == (Outcome.TIMEOUT, Reason.IDLE_TIMEOUT, 0)
    assert (record["tx_packets"], record["syn_repeats"]) == (6, 5)


def test_the_last_record_carries_an_outcome_that_changed_in_silence(table_of):
    """A connection reset after its active record gives a last record without packets that says so."""
    talk = Conversation().handshake().tcp(1, "client", ACK, seq=1001, ack=5001)
    table = table_of(talk.frames)
    (first,) = table.accepted(31)
    assert (first["outcome"], first["reason"]) == (Outcome.ESTABLISHED, Reason.ACTIVE_TIMEOUT)
    table.source.slots["outcome"][:1], table.source.slots["closed_by"][:1] = Outcome.RESET, End.REMOTE
    (last,) = table.accepted(40)
    assert (last["outcome"], last["closed_by"], last["record"]) == (Outcome.RESET, End.REMOTE, 1)
    assert (last["tx_packets"], last["tx_packets_total"]) == (0, first["tx_packets_total"])
    assert last["start_unix_ns"] == last["end_unix_ns"]


@pytest.mark.parametrize(("waited", "outcome"), [(0.5, Outcome.HALF_OPEN), (4, Outcome.TIMEOUT)])
def test_at_shutdown_a_young_syn_is_still_waiting(table_of, waited, outcome):
    """When capture ends before the attempt does, only one that waited for long has timed out."""
    table = table_of(Conversation().tcp(0, "client", SYN, seq=5).frames)
    (record,) = table.accepted(waited, Reason.SHUTDOWN)
    assert (record["outcome"], record["reason"]) == (outcome, Reason.SHUTDOWN)


def test_a_closed_connection_is_over_when_quiet(table_of):
    """Not before the linger time after its last packet, and then at once."""
    talk = Conversation().handshake().tcp(1, "client", FIN | ACK, seq=1001, ack=5001)
    talk.tcp(1.5, "server", FIN | ACK, seq=5001, ack=1002).tcp(2, "client", ACK, seq=1002, ack=5002)
    table = table_of(talk.frames)
    assert table.accepted(2.9) == []
    (record,) = table.accepted(3)
    assert (record["reason"], record["tx_packets"]) == (Reason.END_OF_FLOW, 4)
    assert table.source.used_slots == 0


@pytest.mark.parametrize(
    ("talk", "seconds"),
    [
        (Conversation().udp(0, "client", b"x"), 60),
        (Conversation().handshake(), 7440.01),
        (Conversation().tcp(0, "client", ACK), 7440),
        (Conversation().tcp(0, "client", SYN), 10),
        (Conversation().handshake(-0.01).tcp(0, "server", FIN | ACK), 60),
    ],
    ids=["udp", "established", "joined later", "syn", "half closed"],
)
def test_idle_flows_end_after_their_time(table_of, talk, seconds):
    """Each kind of flow has its own patience."""
    table = table_of(talk.frames, FlowTableSettings(active_interval_seconds=10_000))
    assert table.accepted(seconds - 0.01) == []
    (record,) = table.accepted(seconds)
    assert record["reason"] == Reason.IDLE_TIMEOUT


def test_a_pending_flow_is_left_alone(table_of):
    """Until its batch is settled, a flow is in no other, not even a final one; afterwards it goes on from there."""
    table = table_of(steady(100))
    (emission,) = table.at(30)
    assert table.at(65) == []
    assert table.at(66, Reason.SHUTDOWN) == []
    table.table.accept(emission)
    (record,) = table.accepted(67)
    assert (record["tx_packets"], record["start_unix_ns"]) == (37, START + 31 * SECOND)


def test_a_refused_record_is_covered_by_the_next(table_of):
    """Counts, start and the longest response time of refused records merge into the next, and the number is used once."""
    talk = Conversation()
    for second in range(0, 100, 2):
        talk.udp(second, "client", b"ask").udp(second + (0.9 if second == 10 else 0.1), "server", b"answer")
    table = table_of(talk.frames)
    for second in (30, 31, 45):
        (emission,) = table.at(second)
        assert emission.columns["record"].tolist() == [0]
        table.table.refuse(emission)
    (merged,) = table.accepted(50)
    assert (merged["record"], merged["start_unix_ns"]) == (0, START)
    assert (merged["tx_packets"], merged["rx_packets"], merged["responses"]) == (26, 25, 25)
    assert merged["response_time_max_ns"] == 900_000_000
    assert sum(merged["response_time_histogram"]) == 25
    (following,) = table.accepted(90)
    assert (following["record"], following["response_time_max_ns"]) == (1, 100_000_000)
    assert following["start_unix_ns"] == START + round(50.1 * SECOND)


def test_a_refused_last_record_comes_again_as_it_was(table_of):
    """A flow that ended while the bus refused: its final record waits in the table, and its ports may be used again."""
    talk = Conversation().udp(0, "client", b"x").udp(61, "client", b"y")
    table = table_of(talk.frames, FlowTableSettings(active_interval_seconds=1000))
    (emission,) = table.at(60)
    first = rows(emission)
    table.table.refuse(emission)
    (again,) = table.at(62)
    assert rows(again) == first
    table.table.refuse(again)
    records = table.accepted(63, Reason.SHUTDOWN)
    assert [(record["flow_id"], record["reason"]) for record in records] == [(1, Reason.IDLE_TIMEOUT), (2, Reason.SHUTDOWN)]
    assert table.source.used_slots == 0


class Ledger:
    """Accepts emissions and checks each record against what its flow had told before."""

    def __init__(self, table):
        self.table = table
        self.sent = Counter()
        self.told = Counter()

    def settle(self, emissions):
        """Accept emissions."""
        for emission in emissions:
            for record in rows(emission):
                flow = record["flow_id"]
                assert self.told[flow] == record["record"]
                self.told[flow] += 1
                self.sent[flow] += record["tx_packets"]
                assert record["tx_packets_total"] == self.sent[flow]
            self.table.table.accept(emission)


def test_whatever_the_bus_answers_the_sums_are_the_packets(table_of):
    """Flows of all ages, every third batch refused, some left pending for long: accepted deltas add up to what was sent."""
    frames = []
    for port in range(40):
        talk = Conversation(client_port=1000 + port)
        for second in range(port, 200, 1 + port % 7):
            talk.udp(second, "client", bytes(port))
        frames += talk.frames
    table = table_of(frames, FlowTableSettings(max_rows=7))
    ledger, held, count = Ledger(table), [], 0
    for second in range(0, 400, 5):
        for emission in table.at(second):
            count += 1
            assert len(emission) <= 7
            if count % 3 == 0:
                table.table.refuse(emission)
            elif count % 5 == 0:
                held.append(emission)
            else:
                ledger.settle([emission])
        if second % 50 == 0:
            ledger.settle(held)
            held.clear()
    ledger.settle(held)
    ledger.settle(table.at(1000, Reason.SHUTDOWN))
    assert ledger.sent.total() == len(frames)
    assert table.source.used_slots == 0


def test_a_slot_used_again_remembers_nothing(table_of):
    """The watermarks of a flow that left do not reach into the next one on its slot."""
    frames = steady(40) + [Frame(f.time_ns + 200 * SECOND, f.data) for f in steady(40, client="10.0.0.9")]
    table = table_of(frames, capacity=2)
    records = [record for second in range(0, 400, 10) for record in table.accepted(second)]
    assert [(record["flow_id"], record["record"]) for record in records] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert [record["tx_packets_total"] for record in records] == [31, 40, 31, 40]


def test_a_table_nearly_full_evicts_the_longest_idle(table_of):
    """Above the high mark, down to the low one, oldest first."""
    frames = [Frame(START + i, ethernet(ip(f"10.0.0.{i}", "10.1.0.1", 17, udp(1, 2)))) for i in range(60)]
    table = table_of(frames)
    records = table.accepted(1)
    assert [record["flow_id"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert {record["reason"] for record in records} == {Reason.TABLE_PRESSURE}
    assert table.source.used_slots == 54
    assert table.accepted(2) == []


def test_a_full_emission_fits_a_message(table_of):
    """The default number of rows, every column filled with what compresses least, stays below the batch limit."""
    table = table_of(steady(1))
    (emission,) = table.at(0, Reason.SHUTDOWN)
    count = FlowTableSettings().max_rows
    columns = {name: column.repeat(count, axis=0) for name, column in emission.columns.items()}
    for column in columns.values():
        column.view("u1")[:] = 0xA5
    batch = FlowBatch(node="n" * 63, epoch="e" * 36, sequence=0, count=count, interval=(0, 1), columns=columns)
    assert len(encode(batch)) < MAX_BATCH_BYTES - 4096


def test_what_another_capture_tells_is_left_to_it(table_of):
    """No record of it, and when it is told here, the first record counts what came since; over without more, it leaves none."""
    quiet = Conversation(client_port=50000).udp(0, "client", b"q").frames
    table = table_of(steady(40) + quiet)
    elsewhere = behind(0)
    table.source.advance(START + 35 * SECOND)
    assert list(table.table.drain(START + 35 * SECOND, None, elsewhere)) == []
    table.table.leave(elsewhere, START + 36 * SECOND, START + 35 * SECOND)
    records = table.accepted(200, Reason.SHUTDOWN)
    assert [(record["record"], record["tx_packets"], record["tx_packets_total"]) for record in records] == [(0, 4, 40)]


def test_what_ends_while_another_capture_tells_it_is_gone(table_of):
    """Its slot is free for others, and the next flow in it begins from nothing."""
    table = table_of(Conversation(client_port=50000).udp(0, "client", b"q").udp(300, "client", b"q").frames, capacity=2)
    table.source.advance(START + 100 * SECOND)
    assert list(table.table.drain(START + 100 * SECOND, None, behind(0))) == []
    assert [record["tx_packets_total"] for record in table.accepted(400, Reason.SHUTDOWN)] == [1]


def test_what_began_since_is_not_left(table_of):
    """It is told whole by whoever takes over."""
    table = table_of(Conversation(client_port=50000).udp(10, "client", b"q").frames)
    table.source.advance(START + 20 * SECOND)
    table.table.leave(behind(0), START + 10 * SECOND, START + 20 * SECOND)
    assert [record["tx_packets"] for record in table.accepted(400, Reason.SHUTDOWN)] == [1]
