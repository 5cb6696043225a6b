"""Pieces that are done together."""

from __future__ import annotations

import asyncio

import pytest

from services.runtime.gathering import Gathering


class Work:
    """Doubles numbers, and remembers which it got at once."""

    def __init__(self) -> None:
        self.turns: list[list[int]] = []

    async def __call__(self, pieces: list[int]) -> list[int | Exception]:
        """0 cannot be doubled here."""
        self.turns.append(pieces)
        return [piece * 2 if piece else ValueError("0") for piece in pieces]


def gathering(work: Work, *, enough: int = 3, most_size: int = 1000) -> Gathering[int, int]:
    """Pieces are as large as their number; nobody waits for so long."""
    return Gathering(work, enough=enough, pace_seconds=3600, size=int, most_size=most_size, most_pieces=4)


async def test_what_comes_together_is_done_together_and_then_waits_for_enough() -> None:
    """The first go at once; those that come after them once there are enough, not an hour later."""
    work = Work()
    gathered = gathering(work)
    assert await asyncio.gather(*map(gathered.done, (1, 2))) == [2, 4]
    later = [asyncio.create_task(gathered.done(number)) for number in (3, 4)]
    await asyncio.sleep(0)
    assert await gathered.done(5) == 10
    assert await asyncio.gather(*later) == [6, 8]
    assert work.turns == [[1, 2], [3, 4, 5]]


async def test_a_turn_is_bounded_in_size_and_number() -> None:
    """The rest is the next turn's."""
    work = Work()
    assert await asyncio.gather(*map(gathering(work, enough=1, most_size=10).done, (9, 9, 9, 1, 1, 1, 1))) == [
        18, 18, 18, 2, 2, 2, 2,
    ]  # fmt: skip
    assert work.turns == [[9, 9], [9, 1], [1, 1, 1]]


async def test_what_cannot_be_done_is_raised_where_it_is_awaited() -> None:
    """And what nobody awaits any more is not done."""
    work = Work()
    gathered = gathering(work, enough=1)
    given_up = asyncio.create_task(gathered.done(7))
    good = asyncio.create_task(gathered.done(1))
    bad = asyncio.create_task(gathered.done(0))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(ValueError, match="0"):
        await bad
    assert await good == 2
    assert work.turns == [[1, 0]]


async def test_work_that_fails_as_a_whole_leaves_nobody_waiting() -> None:
    """All of its turn are told why, and the next turn is done."""
    turns = 0

    async def work(pieces: list[int]) -> list[int | Exception]:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise RuntimeError("all of it")
        return pieces[:-1] if turns == 2 else list(pieces)

    gathered: Gathering[int, int] = Gathering(work, enough=2, pace_seconds=3600, size=int, most_size=1000, most_pieces=2)
    found = await asyncio.gather(*map(gathered.done, (1, 2, 3, 4, 5, 6)), return_exceptions=True)
    assert [type(one) for one in found[:2]] == [RuntimeError, RuntimeError]
    assert found[2] == 3
    assert isinstance(found[3], ValueError)
    assert found[4:] == [5, 6]
