"""Settling who holds an address when."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.enricher.index.claims import CLOCK_SKEW_NS, FOREVER, Claim, Key, Rank, Table, Target, packed_address, settle

KEY = Key(Table.ADDRESS, bytes(16))
SECOND = 1_000_000_000

TENTH = SECOND // 10

times = st.integers(0, 60).map(lambda tenths: tenths * TENTH + 1) | st.just(FOREVER)
claims = st.builds(
    lambda target, rank, ends, outside: Claim(KEY, Target(target), rank, min(ends), max(ends), outside),
    st.sampled_from("abc"),
    st.sampled_from([Rank.ENDPOINT_AT_ANY_TIME, Rank.NODE]),
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
    for time in (*range(0, 62 * TENTH, TENTH // 2), FOREVER - 1):
        found = {each.target for each in settled if each.start_unix_ns <= time < each.end_unix_ns}
        expected = holder(contenders, time)
        assert len(found) == bool(expected)
        assert found <= expected


def tenure(name: str, start: float, end: float = 0, *, rank: Rank = Rank.POD, lead_ns: int = CLOCK_SKEW_NS) -> Claim:
    """A pod's claim from one second to another."""
    return Claim(KEY, Target(name), rank, round(start * SECOND), round(end * SECOND) if end else FOREVER, lead_ns=lead_ns)


def settled(*contenders: Claim) -> list[tuple[float, float, str]]:
    """Who has the address from which second to which, 0 for ever."""
    return [(start / SECOND, end / SECOND if end != FOREVER else 0, target.key) for start, end, target in settle(contenders)]


def test_of_equal_claims_the_later_holds() -> None:
    """A pod that a watch has missed the end of gives way to the one that has its address now."""
    old, new = tenure("old", 10, lead_ns=0), tenure("new", 20, lead_ns=0)
    assert settled(new, old) == [(10, 20, "old"), (20, 0, "new")]


def test_within_the_second_that_starts_are_cut_off_to_nobody_is_known_to_be_there() -> None:
    """A start at :50 may be any time before :51: what ended in that second was there before it, how long nobody knows."""
    assert settled(tenure("old", 10, 50.4), tenure("new", 50)) == [(5, 50, "old"), (50.4, 0, "new")]
    assert settled(tenure("job", 10, 51, rank=Rank.FINISHED_POD), tenure("new", 50)) == [(5, 50, "job"), (51, 0, "new")]
    crowd = [tenure("a", 50, 50.2), tenure("b", 50, 50.5), tenure("c", 50)]
    assert settled(*reversed(crowd)) == [(50.5, 0, "c")]


def test_an_end_that_was_seen_late_ends_where_the_next_began() -> None:
    """A deletion that is heard of long after the next pod had the address takes nothing of its time, nor of what follows."""
    assert settled(tenure("old", 10, 90), tenure("new", 50)) == [(5, 50, "old"), (50, 0, "new")]
    assert settled(tenure("old", 10, 90), tenure("job", 50, 61, rank=Rank.FINISHED_POD)) == [(5, 50, "old"), (50, 61, "job")]
    seen = tenure("new", 50.25)  # by a watch, so it is not cut off
    assert settled(tenure("old", 10, 50.5), seen) == [(5, 50.25, "old"), (50.25, 0, "new")]


def test_a_clock_that_is_behind_is_allowed_for_where_nobody_else_was() -> None:
    """A pod's first packets may bear a time shortly before it is known to be there, but not where another pod has just been."""
    assert settled(tenure("old", 10, 48), tenure("new", 50)) == [(5, 48, "old"), (50, 0, "new")]
    assert settled(tenure("old", 10, 40), tenure("new", 50)) == [(5, 40, "old"), (45, 0, "new")]
    assert settled(tenure("new", 50)) == [(45, 0, "new")]


def test_a_service_begins_when_the_one_before_it_was_seen_to_end() -> None:
    """The address of a deleted Service may be another's within the second that creation times are cut off to."""
    old, new = (Claim(KEY, Target(name), Rank.SERVICE, round(start * SECOND), end) for name, start, end in (
        ("old", 10, round(50.4 * SECOND)), ("new", 50, FOREVER),
    ))  # fmt: skip
    assert settled(old, new) == [(10, 50.4, "old"), (50.4, 0, "new")]


def test_containers_of_one_pod_do_not_end_each_other() -> None:
    """Two of them may say that they listen on one port: one of them is named, for as long as the pod is there."""
    claims = [Claim(KEY, Target("pod", name), Rank.POD, 10 * SECOND) for name in ("app", "proxy")]
    assert settled(*claims) == [(10, 0, "pod")]


def test_addresses_are_sixteen_bytes() -> None:
    """IPv4 is mapped, IPv6 is as it is, anything else is no address."""
    assert packed_address("10.0.0.1") == bytes(10) + b"\xff\xff\x0a\x00\x00\x01"
    assert packed_address("fd00::1") == bytes.fromhex("fd00") + bytes(13) + b"\x01"
    assert packed_address("None") is None
    assert packed_address("") is None
    assert packed_address(None) is None
