"""Live records' times: what must stay the same in all records of a flow, and what follows the node's clock."""

import numpy as np

from services.capture.flows.table import Emission
from services.capture.live.records import LiveClock, unix_offset_ns

TIMES = ("start_unix_ns", "end_unix_ns", "flow_start_unix_ns", "syn_unix_ns", "syn_ack_unix_ns", "handshake_ack_unix_ns")


def emission(record: int, start: int, end: int) -> Emission:
    """One record of the flow in slot 3, which began at 1,000 and has no handshake but its SYN."""
    columns = {name: np.zeros(1, np.uint64) for name in TIMES}
    columns |= {"record": np.array([record], np.uint32), "flow_id": np.array([3], np.uint64)}
    for name, value in (("start_unix_ns", start), ("end_unix_ns", end), ("flow_start_unix_ns", 1000), ("syn_unix_ns", 1000)):
        columns[name][:] = value
    return Emission(np.array([3], np.uint32), columns, end, np.array([False]))


def test_a_flows_start_is_the_same_in_all_its_records_when_the_clock_is_set() -> None:
    """The clock is set forward between two records: start and handshake stay, what happened since is on the new clock."""
    offset = 1_000_000
    clock = LiveClock(8, lambda: offset)
    first = clock.convert(emission(0, 1000, 2000))
    offset = 5_000_000
    clock.begin_drain()
    second = clock.convert(emission(1, 3000, 4000))
    assert first["flow_start_unix_ns"] == second["flow_start_unix_ns"] == first["start_unix_ns"] == 1_001_000
    assert first["syn_unix_ns"] == second["syn_unix_ns"] == 1_001_000
    assert first["end_unix_ns"] == 1_002_000
    assert (second["start_unix_ns"], second["end_unix_ns"]) == (5_003_000, 5_004_000)
    assert second["syn_ack_unix_ns"] == 0


def test_a_flows_start_is_what_was_said_of_it_before_its_first_record() -> None:
    """A request that links to it is told first: the clock is set between the two, and both say the same. Another flow of the
    slot has a start of its own.
    """
    offset = 1_000_000
    clock = LiveClock(8, lambda: offset)
    assert clock.of_flows(np.array([3], np.uint32), np.array([3], np.uint64)).tolist() == [1_000_000]
    offset = 5_000_000
    clock.begin_drain()
    assert clock.convert(emission(0, 1000, 2000))["flow_start_unix_ns"] == 1_001_000
    assert clock.of_flows(np.array([3], np.uint32), np.array([1 << 32 | 3], np.uint64)).tolist() == [5_000_000]


def test_no_record_begins_before_its_flow_when_the_clock_is_set_back() -> None:
    """The clock is set back by more than the flow is old: its record stands at its start."""
    offset = 9_000_000
    clock = LiveClock(8, lambda: offset)
    clock.convert(emission(0, 1000, 2000))
    offset = 1_000_000
    clock.begin_drain()
    second = clock.convert(emission(1, 3000, 4000))
    assert second["start_unix_ns"] == second["end_unix_ns"] == second["flow_start_unix_ns"] == 9_001_000


def test_the_emission_keeps_the_tables_clock() -> None:
    """What the table settles by is not touched: a refused record's start goes back as it came."""
    clock = LiveClock(8, lambda: 7)
    refused = emission(0, 1000, 2000)
    clock.convert(refused)
    assert refused.columns["start_unix_ns"] == 1000


def test_the_offset_leads_to_the_same_time() -> None:
    """Two looks at this machine's clocks agree within a millisecond."""
    assert abs(unix_offset_ns() - unix_offset_ns()) < 1_000_000
