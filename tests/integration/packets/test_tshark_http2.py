"""Exchanges of HTTP/2 against an independent reader's frames and headers, in talks of real clients and servers."""

from __future__ import annotations

import shutil

import pytest

from proto.columns import ExchangeEnd
from tests.support.calls.dissected import PHASES, of_http2
from tests.support.packets.pcap import write
from tests.support.packets.replayed import replay_files
from tests.support.packets.talks.http2_stacks import STACKS, is_missing
from tests.support.packets.talks.http_talk import counted

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


@pytest.fixture(params=STACKS)
def talk(request):
    """A talk of a client and a server; skips where one is not installed."""
    if is_missing(request.param):
        pytest.skip(f"{STACKS[request.param][0]} is not installed")
    return STACKS[request.param][1]


def test_every_call_is_tsharks(tmp_path, talk):
    """Ids, and the four times to the microsecond; none is missing and none made up."""
    path = write(tmp_path / "talk.pcap", talk(tmp_path, None))
    theirs = {key: stream for key, stream in of_http2(path).items() if stream.is_whole and stream.ids}
    replayed = replay_files([path], trace_context=True)
    ours = {((each["local_port"], each["remote_port"]), each["record"] & 0x7FFFFFFF): each for each in replayed.exchanges}
    whole = {key for key, each in ours.items() if each["exchange_end"] == ExchangeEnd.STREAM}
    assert theirs
    assert not {reason: number for reason, number in counted(replayed).items() if reason.startswith("connections_")}
    assert whole <= theirs.keys() <= ours.keys()
    for key, stream in theirs.items():
        assert stream.ids == [ours[key]["trace_id"].hex(), ours[key]["parent_span_id"].hex()]
        for phase in PHASES:
            assert ours[key][f"{phase}_unix_ns"] == pytest.approx(getattr(stream, phase), abs=1000), (key, phase)


def test_every_call_is_told_however_its_frames_are_cut(tmp_path, talk):
    """In segments of up to 61 bytes, in which tshark itself loses its way: all that are sampled, and none is given up."""
    replayed = replay_files([write(tmp_path / "talk.pcap", talk(tmp_path, 61))], trace_context=True)
    found = counted(replayed)
    assert len(replayed.exchanges) == found["requests_sampled"] > 0
    assert found.keys() <= {"requests_sampled", "requests_unsampled", "requests_absent"}
