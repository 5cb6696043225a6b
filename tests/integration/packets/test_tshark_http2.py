"""Exchanges of HTTP/2 against an independent reader's frames and headers, in talks of real clients and servers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import pytest

from proto.columns import ExchangeEnd
from tests.support.packets.pcap import SECOND, write
from tests.support.packets.replayed import replay_files
from tests.support.packets.talks.http2_stacks import STACKS, is_missing
from tests.support.packets.talks.http2_talk import DATA, END_STREAM, HEADERS
from tests.support.packets.talks.http_talk import counted

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")

NEVER = 0.0
SERVER_PORT = "8080"


@dataclass
class Stream:
    """What tshark says of one."""

    context: str | None = None
    request_first: float = NEVER
    request_last: float = NEVER
    response_first: float = NEVER
    response_last: float = NEVER

    def take(self, *, is_asked: bool, begun: float, now: float, kind: int, flags: int, headers: dict[str, str]) -> None:
        """Take over a frame."""
        whole = flags & END_STREAM and kind in {DATA, HEADERS}
        if is_asked:
            self.context = self.context or headers.get("traceparent")
            self.request_first = self.request_first or begun
            self.request_last = now if whole else self.request_last
        else:
            is_final = kind == HEADERS and not headers.get(":status", "1").startswith("1")
            self.response_first = self.response_first or (begun if is_final else NEVER)
            self.response_last = now if whole else self.response_last


def shown(element: ET.Element, name: str) -> Iterator[str]:
    """Values of a field, wherever in the element."""
    return (field.get("show", "") for field in element.iter("field") if field.get("name") == name)


def of_tshark(path) -> dict[tuple[int, int], Stream]:
    """Streams of clients that are whole, by client's port and id."""
    command = ["tshark", "-r", path, "-d", f"tcp.port=={SERVER_PORT},http2", "-T", "pdml"]
    packets = ET.fromstring(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    times = [float(next(shown(packet, "frame.time_epoch"))) for packet in packets.iter("packet")]
    streams: dict[tuple[int, int], Stream] = {}
    for packet, now in zip(packets.iter("packet"), times, strict=True):
        source, destination = next(shown(packet, "tcp.srcport"), ""), next(shown(packet, "tcp.dstport"), "")
        client = int(source if destination == SERVER_PORT else destination)
        # The first frame of a packet may have begun in an earlier one.
        begun = min((times[int(number) - 1] for number in shown(packet, "tcp.segment")), default=now)
        for found in packet.iter("field"):
            if found.get("name") != "http2.stream":
                continue
            number, kind = int(next(shown(found, "http2.streamid"), "0")), int(next(shown(found, "http2.type"), "-1"))
            if number % 2 and kind in {DATA, HEADERS}:
                names, values = shown(found, "http2.header.name"), shown(found, "http2.header.value")
                streams.setdefault((client, number), Stream()).take(
                    is_asked=destination == SERVER_PORT, begun=begun, now=now, kind=kind,
                    flags=int(next(shown(found, "http2.flags")), 16), headers=dict(zip(names, values, strict=True)),
                )  # fmt: skip
            begun = now
    return {key: stream for key, stream in streams.items() if stream.request_last and stream.response_last}


@pytest.fixture(params=STACKS)
def talk(request):
    """A talk of a client and a server; skips where one is not installed."""
    if is_missing(request.param):
        pytest.skip(f"{STACKS[request.param][0]} is not installed")
    return STACKS[request.param][1]


def test_every_call_is_tsharks(tmp_path, talk):
    """Ids, and the four times to the microsecond; none is missing and none made up."""
    path = write(tmp_path / "talk.pcap", talk(tmp_path, None))
    theirs = {key: stream for key, stream in of_tshark(path).items() if stream.context and stream.context.endswith("1")}
    replayed = replay_files([path], trace_context=True)
    ours = {(each["local_port"], each["record"] & 0x7FFFFFFF): each for each in replayed.exchanges}
    whole = {key for key, each in ours.items() if each["exchange_end"] == ExchangeEnd.STREAM}
    assert theirs
    assert not {reason: number for reason, number in counted(replayed).items() if reason.startswith("connections_")}
    assert whole <= theirs.keys() <= ours.keys()
    for key, stream in theirs.items():
        assert stream.context.split("-")[1:3] == [ours[key]["trace_id"].hex(), ours[key]["parent_span_id"].hex()]
        for phase in ("request_first", "request_last", "response_first", "response_last"):
            at = ours[key][f"{phase}_unix_ns"] / SECOND
            assert at == pytest.approx(getattr(stream, phase), abs=1e-6), (key, phase)


def test_every_call_is_told_however_its_frames_are_cut(tmp_path, talk):
    """In segments of up to 61 bytes, in which tshark itself loses its way: all that are sampled, and none is given up."""
    replayed = replay_files([write(tmp_path / "talk.pcap", talk(tmp_path, 61))], trace_context=True)
    found = counted(replayed)
    assert len(replayed.exchanges) == found["requests_sampled"] > 0
    assert found.keys() <= {"requests_sampled", "requests_unsampled", "requests_absent"}
