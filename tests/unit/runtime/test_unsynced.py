"""What a server may lose with its machine is kept for as long as it may, and within its bound."""

from __future__ import annotations

from services.runtime.nats.unsynced import Acknowledged, Unsynced


def message(number: int, size: int = 10) -> Acknowledged:
    """Acknowledged at the second of its number."""
    return Acknowledged(float(number), "flows.raw.node-a", bytes(size), str(number), None)


def test_what_is_on_the_disk_is_forgotten() -> None:
    """By the time of its acknowledgement; the rest is given once, oldest first."""
    kept = Unsynced(1_000)
    for number in range(5):
        kept.add(message(number))
    kept.forget(before=2.0)
    assert kept.bytes == 30
    assert [each.message_id for each in kept.take()] == ["2", "3", "4"]
    assert (kept.take(), kept.bytes, kept.given_up) == ([], 0, 0)


def test_beyond_its_bound_the_oldest_is_given_up_and_counted() -> None:
    """One that is larger than the bound too."""
    kept = Unsynced(25)
    for number in range(4):
        kept.add(message(number))
    assert (kept.bytes, kept.given_up) == (20, 2)
    kept.add(message(4, size=26))
    assert (kept.bytes, kept.given_up, kept.take()) == (0, 5, [])


def test_what_is_taken_is_held_until_it_is_done() -> None:
    """Nobody may take a message for synced while it is published again to the next server."""
    kept = Unsynced(1_000)
    kept.add(message(1))
    assert kept.holds("1")
    (taken,) = kept.take()
    kept.add(taken)
    kept.done(taken)
    assert kept.holds("1")
    kept.forget(before=2.0)
    assert not kept.holds("1")
