"""What a server may lose with its machine is kept for as long as it may, and within its bound."""

from __future__ import annotations

from proto.subjects import stream_prefix
from services.runtime.nats.jetstream import stream_configs
from services.runtime.nats.unsynced import Acknowledged, Unsynced
from services.runtime.settings import StreamSettings

STREAM = "flows.raw"


def message(number: int, size: int = 10) -> Acknowledged:
    """Acknowledged at the second of its number."""
    return Acknowledged(float(number), "flows.raw.node-a", bytes(size), str(number), None)


def test_streams_are_known_by_what_their_subjects_begin_with() -> None:
    """Each by its own: what one that is gone may have lost is told from what the others hold."""
    configs = [*stream_configs(StreamSettings(partitions=3), cache=True)]
    prefixes = [stream_prefix(subject) for config in configs for subject in config["subjects"]]
    assert [f"{prefix}.>" for prefix in prefixes] == [subject for config in configs for subject in config["subjects"]]
    assert len(set(prefixes)) == len(configs)


def test_what_is_on_the_disk_is_forgotten() -> None:
    """By the time of its acknowledgement; the rest is given once, oldest first."""
    kept = Unsynced(1_000)
    for number in range(5):
        kept.add(STREAM, message(number))
    kept.forget(STREAM, before=2.0)
    assert kept.bytes == 30
    assert [each.message_id for each in kept.take(STREAM)] == ["2", "3", "4"]
    assert (len(kept.take(STREAM)), kept.given_up) == (0, 0)


def test_beyond_its_bound_the_oldest_is_given_up_and_counted() -> None:
    """One that is larger than the bound too."""
    kept = Unsynced(25)
    for number in range(4):
        kept.add(STREAM, message(number))
    assert (kept.bytes, kept.given_up) == (20, 2)
    kept.add(STREAM, message(4, size=26))
    assert (kept.bytes, kept.given_up, len(kept.take(STREAM))) == (0, 5, 0)


def test_what_is_taken_is_held_until_it_is_done() -> None:
    """Nobody may take a message for synced while it is published again to the next server."""
    kept = Unsynced(1_000)
    kept.add(STREAM, message(1))
    assert kept.holds("1")
    (taken,) = kept.take(STREAM)
    assert kept.bytes == 10
    kept.add(STREAM, taken)
    kept.done(taken)
    assert kept.holds("1")
    kept.forget("flows.dead", before=2.0)
    assert (kept.holds("1"), kept.bytes) == (True, 10)
    kept.forget(STREAM, before=2.0)
    assert (kept.holds("1"), kept.bytes) == (False, 0)


def test_who_asked_is_told_once_a_message_is_held_no_longer() -> None:
    """Each who asked, once, and not while another copy of it is held."""
    kept, told = Unsynced(1_000), []
    for at in (1.0, 3.0):
        kept.add(STREAM, message(1)._replace(at=at))
    kept.add(STREAM, message(4))
    for who in ("a", "b"):
        kept.tell("1", lambda who=who: told.append(who))
    kept.forget(STREAM, before=2.0)
    assert (told, kept.awaited) == ([], True)
    kept.forget(STREAM, before=5.0)
    assert (told, kept.awaited) == (["a", "b"], False)


def test_the_bound_is_of_all_streams_together() -> None:
    """The oldest goes, whichever stream's it is; not what is published again just now: that is what may be lost."""
    kept = Unsynced(25)
    for number in range(2):
        kept.add(("flows.dead", STREAM)[number], message(number))
    taken = kept.take(STREAM)
    for number in range(2, 5):
        kept.add(STREAM, message(number))
    assert (kept.bytes, kept.given_up, [each.message_id for each in taken]) == (30, 2, ["1"])
    assert [kept.holds(str(number)) for number in range(5)] == [False, True, False, True, True]
