"""Capture files as Wireshark's own tools write them, and links as tshark reads them, told alike by both."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.integration.packets.test_tshark_generated import talk
from tests.support.packets import pcap
from tests.support.packets.oracle.accuracy import compare
from tests.support.packets.pcap import Frame, link, write
from tests.support.packets.replayed import replay_files

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


def tool(*command):
    """Run a tool of Wireshark's."""
    subprocess.run(command, check=True, capture_output=True)


def on_link(folder, link_type, port):
    """A connection as a file of this link type."""
    frames = [Frame(frame.time_ns, link(link_type, frame.data[14:])) for frame in talk(port)]
    return write(folder / f"{link_type}.pcap", frames, link_type=link_type)


@pytest.mark.parametrize("link_type", [*pcap.LINK_TYPES, pcap.IPV4])
def test_every_link_type(tmp_path, link_type):
    """Packets, bytes, retransmissions and the handshake of a connection on it."""
    found = compare(shutil.which("tshark"), on_link(tmp_path, link_type, 40000))
    assert found.disagreements == []
    assert (found.conversations, found.events["retransmissions"]) == (1, (1, 1))


def test_what_mergecap_makes_of_many_link_types(tmp_path):
    """One pcapng file with an interface for each input."""
    paths = [on_link(tmp_path, link_type, 40000 + number) for number, link_type in enumerate(pcap.LINK_TYPES)]
    tool("mergecap", "-w", tmp_path / "merged.pcapng", *paths)
    found = compare(shutil.which("tshark"), tmp_path / "merged.pcapng")
    assert found.disagreements == []
    assert found.conversations == len(paths)


@pytest.mark.parametrize("options", [("-F", "pcapng"), ("-F", "nsecpcap"), ("-F", "modpcap"), ("-s", "80"), ("-F", "pcap")])
def test_what_editcap_makes_of_a_file(tmp_path, options):
    """Every form of the formats that it writes."""
    tool("editcap", *options, on_link(tmp_path, pcap.ETHERNET, 40000), tmp_path / "edited")
    found = compare(shutil.which("tshark"), tmp_path / "edited")
    assert found.disagreements == []
    assert found.conversations == 1


def test_what_editcap_splits(tmp_path):
    """A capture in pieces, named in any order, is the capture."""
    whole = on_link(tmp_path, pcap.ETHERNET, 40000)
    tool("editcap", "-c", "3", whole, tmp_path / "piece.pcapng")
    pieces = sorted(tmp_path.glob("piece*"))
    assert len(pieces) > 3
    assert replay_files(pieces[::-1]).records == replay_files([whole]).records
