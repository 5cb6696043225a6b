"""Settling who holds an address when."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.enricher.index.claims import CLOCK_SKEW_NS, FOREVER, Claim, Key, Rank, Table, Target, packed_address, settle

KEY = Key(Table.ADDRESS, bytes(16))

times = st.integers(0, 12) | st.just(FOREVER)
claims = st.builds(
    lambda target, rank, ends, outside: Claim(KEY, Target(target), rank, min(ends), max(ends), outside),
    st.sampled_from("abc"),
    st.sampled_from([Rank.FINISHED_POD, Rank.POD, Rank.NODE]),
    st.tuples(times, times),
    st.sampled_from([Rank.NONE, Rank.FINISHED_POD_AT_ANY_TIME, Rank.POD_AT_ANY_TIME]),
)


def holder(contenders: list[Claim], time: int) -> set[Target]:
    """Targets of the highest rank at a time, by definition."""
    ranks = [
        (claim.rank if claim.start_unix_ns <= time < claim.end_unix_ns else claim.outside_rank, claim) for claim in contenders
    ]
    highest = max((rank for rank, _ in ranks), default=Rank.NONE)
    return {claim.target for rank, claim in ranks if rank == highest and rank}


@given(st.lists(claims, min_size=1, max_size=6))
def test_settled_intervals_hold_the_highest_claim_at_every_time(contenders: list[Claim]) -> None:
    """At any time the one interval that holds is of a target whose claim was the highest, and where no claim is, none is."""
    settled = settle(contenders)
    assert all(first.end_unix_ns <= second.start_unix_ns for first, second in pairwise(settled))
    for time in (*range(14), FOREVER - 1):
        found = {each.target for each in settled if each.start_unix_ns <= time < each.end_unix_ns}
        expected = holder(contenders, time)
        assert len(found) == bool(expected)
        assert found <= expected


def test_of_equal_claims_the_later_holds() -> None:
    """A pod that a watch has missed the end of gives way to the one that has its address now."""
    old, new = Claim(KEY, Target("old"), Rank.POD, 10), Claim(KEY, Target("new"), Rank.POD, 20)
    assert settle([new, old]) == [(10, 20, Target("old")), (20, FOREVER, Target("new"))]


def test_a_pod_begins_when_the_one_before_it_ended() -> None:
    """Starts are known to the second: within it the end of the pod before, as it was seen, decides, each time anew."""
    second = 1_000_000_000
    first, next_one, last = (
        Claim(KEY, Target(name), Rank.POD, 50 * second, 50 * second + end, lead_ns=CLOCK_SKEW_NS) if end else
        Claim(KEY, Target(name), Rank.POD, 50 * second, FOREVER, lead_ns=CLOCK_SKEW_NS)
        for name, end in (("a", 200), ("b", 500), ("c", 0))
    )  # fmt: skip
    assert settle([last, next_one, first])[-3:] == [
        (50 * second, 50 * second + 200, Target("a")),
        (50 * second + 200, 50 * second + 500, Target("b")),
        (50 * second + 500, FOREVER, Target("c")),
    ]


def test_an_end_that_was_seen_late_ends_where_the_next_began() -> None:
    """A deletion that a watch heard of long after the next pod had the address does not take the next pod's time."""
    second = 1_000_000_000
    old = Claim(KEY, Target("old"), Rank.POD, 10 * second, 90 * second, lead_ns=CLOCK_SKEW_NS)
    new = Claim(KEY, Target("new"), Rank.POD, 50 * second, lead_ns=CLOCK_SKEW_NS)
    assert settle([old, new]) == [(5 * second, 50 * second, Target("old")), (50 * second, FOREVER, Target("new"))]


def test_a_clock_that_is_behind_is_allowed_for_where_nobody_else_was() -> None:
    """A pod's first packets may bear a time shortly before its start, but not while another pod had the address."""
    second = 1_000_000_000
    old = Claim(KEY, Target("old"), Rank.POD, 10 * second, 48 * second, lead_ns=CLOCK_SKEW_NS)
    new = Claim(KEY, Target("new"), Rank.POD, 50 * second, lead_ns=CLOCK_SKEW_NS)
    assert settle([old, new]) == [(5 * second, 48 * second, Target("old")), (48 * second, FOREVER, Target("new"))]
    assert settle([new]) == [(45 * second, FOREVER, Target("new"))]


def test_addresses_are_sixteen_bytes() -> None:
    """IPv4 is mapped, IPv6 is as it is, anything else is no address."""
    assert packed_address("10.0.0.1") == bytes(10) + b"\xff\xff\x0a\x00\x00\x01"
    assert packed_address("fd00::1") == bytes.fromhex("fd00") + bytes(13) + b"\x01"
    assert packed_address("None") is None
    assert packed_address("") is None
    assert packed_address(None) is None
