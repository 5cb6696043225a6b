"""What each of the captures that stand in line tells, as one takes over from the other."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from services.capture.flows.layout import FLOW, KNOWN_ISN
from services.capture.flows.share import EVERYTHING, Share
from services.capture.live.succession import Succession

SECOND = 1_000_000_000
TCP, UDP = 6, 17


@pytest.fixture
def capture(tmp_path):
    """Makes captures of one node."""
    (tmp_path / "cgroup.procs").touch(mode=0o444)
    with contextlib.ExitStack() as stack:
        yield lambda at, name="release": stack.enter_context(Succession(tmp_path, name, at * SECOND))


def told(share: Share) -> dict[str, bool]:
    """Which flows are told: whether they began at 15 s, when both were there, or at 5 s."""
    flows = np.zeros(4, FLOW)
    names = "shaken late", "shaken early", "joined late", "datagrams late"
    flows["transport"] = TCP, TCP, TCP, UDP
    flows["first_ns"] = np.array([15, 5, 15, 15]) * SECOND
    flows["rx_known"][:2] = KNOWN_ISN
    return dict(zip(names, (~share.untold(flows)).tolist(), strict=True))


def test_alone_it_tells_everything(capture) -> None:
    """Where nobody else is, or nobody of the same name."""
    alone = capture(10)
    assert alone.look() == EVERYTHING
    assert capture(10, "other release").look() == alone.look() == EVERYTHING
    assert all(told(EVERYTHING).values())


def test_of_two_each_flow_is_told_by_one(capture) -> None:
    """A connection that began when both were there is the second's, everything else the first's until that is gone."""
    old, new = capture(1), capture(10)
    assert told(new.look()) == {"shaken late": True, "shaken early": False, "joined late": False, "datagrams late": False}
    assert told(old.look()) == {name: not mine for name, mine in told(new.look()).items()}
    old.leave(20 * SECOND)
    assert told(old.look())["shaken late"] is False, "in its last records as well"
    assert all(told(new.look()).values())


def test_of_three_the_middle_one_tells_what_is_between(capture) -> None:
    """A rollout that overtakes another: each is told by the one that was there when it began and will be for the longest."""
    old, middle, new = capture(1), capture(8), capture(12)
    of_each = [told(each.look()) for each in (old, middle, new)]
    assert [each["shaken late"] for each in of_each] == [False, False, True]
    assert [each["datagrams late"] for each in of_each] == [True, False, False]
    middle.close()
    old.close()
    assert all(told(new.look()).values())


def test_a_second_one_that_is_gone_again(capture) -> None:
    """What begins from then on is the first's."""
    old, new = capture(1), capture(10)
    assert not told(old.look())["shaken late"]
    new.close()
    assert all(told(old.look()).values())


def test_requests_are_told_by_one(capture) -> None:
    """Of an open connection, those that were asked while the first was there are its own, later ones the second's."""
    old, new = capture(1), capture(10)
    asked = np.array([4, 15]) * np.uint64(SECOND), np.array([5, 16]) * np.uint64(SECOND)
    begun = np.array([True, True])
    assert new.look().untold_requests(begun, *asked).tolist() == [True, False]
    assert old.look().untold_requests(begun, *asked).tolist() == [False, True]
    old.leave(20 * SECOND)
    taken_ns = np.uint64(20 * SECOND)
    assert new.look().rest_since_ns == taken_ns
    requests = np.array([taken_ns - np.uint64(1), taken_ns])
    assert new.look().untold_requests(np.array([False, False]), asked[0], requests).tolist() == [True, False]


def test_where_there_can_be_no_line_everything_is_told(tmp_path) -> None:
    """A file that is not there, or a policy that forbids locks, is said and ends nothing."""
    with Succession(tmp_path, "release", 0) as alone:
        assert alone.look() == EVERYTHING
