"""Talks of real stacks of HTTP/2 of which something is missing: what is told is what is told of the whole talk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto.columns import ExchangeEnd
from tests.support.packets.pcap import write
from tests.support.packets.replayed import replay_files
from tests.support.packets.talks.http2_stacks import grpc_python
from tests.support.packets.talks.http_talk import counted

if TYPE_CHECKING:
    from tests.support.packets.pcap import Frame

SAID = (
    "trace_id", "parent_span_id", "http_method", "http_status", "exchange_end", "request_bytes", "response_bytes",
    "request_first_unix_ns", "request_last_unix_ns", "response_first_unix_ns", "response_last_unix_ns",
)  # fmt: skip


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> list[Frame]:
    """A talk of grpcio: calls one by one, a hundred at once, streaming, cancelled and failing ones over one connection."""
    return list(grpc_python(tmp_path_factory.mktemp("talk"), None))


@pytest.fixture
def told(tmp_path):
    """What replay tells of packets: stream -> what is said of it, and the replay."""

    def tell(frames: list[Frame]) -> tuple[dict[int, dict], object]:
        replayed = replay_files([write(tmp_path / "talk.pcap", frames)], trace_context=True)
        return {each["record"] & 0x7FFFFFFF: {name: each[name] for name in SAID} for each in replayed.exchanges}, replayed

    return tell


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_a_connection_that_is_joined_late_is_told_but_for_its_first_calls(frames, told, share):
    """Without its handshake, preface and first packets: of the calls that begin thereafter all but one or two, and one that was
    under way with them, and each as it is told of the whole.
    """
    whole, _ = told(frames)
    rest = frames[max(6, int(len(frames) * share)) :]
    found, replayed = told(rest)
    begun = {stream for stream, each in whole.items() if each["request_first_unix_ns"] >= rest[0].time_ns}
    assert found.keys() <= begun
    assert {stream: whole[stream] for stream in found} == found
    assert len(found) >= len(begun) - 2 - counted(replayed).get("requests_unpaired", 0)
    assert replayed.counters["pieces_frames_found"] == 2


def test_behind_a_packet_that_is_missing_nothing_is_told_otherwise(frames, told):
    """Whichever it is: what is told is as it is told of the whole, nothing is told of a call that may have gone on in what is
    missing, and the frames are found again.
    """
    whole, _ = told(frames)
    again = 0
    for missing in range(8, len(frames), max(1, len(frames) // 25)):
        found, replayed = told(frames[:missing] + frames[missing + 1 :])
        assert found.keys() <= whole.keys()
        again += replayed.counters["pieces_frames_found"]
        # What a client gives up may have been answered in what is missing: the server's next segment comes too late to say so.
        kept = {stream: each for stream, each in found.items() if each["exchange_end"] != ExchangeEnd.STREAM_RESET}
        assert {stream: whole[stream] for stream in kept} == kept, missing
    assert again > 5
