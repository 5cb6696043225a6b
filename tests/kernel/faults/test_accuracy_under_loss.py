"""Real TCP under loss, captured on both sides of the router that loses: our measures beside tshark's."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.support.node.lossy_path import captured, lossy_path, transfers
from tests.support.packets.oracle.accuracy import compare

LOSS = 0.03
CONNECTIONS = 20
REACH = 0.98

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("tshark", "dumpcap", "iptables")),
        reason="needs tshark, dumpcap and iptables",
    ),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Both captures of one run, compared."""
    folder = tmp_path_factory.mktemp("lossy")
    folder.chmod(0o755)
    paths = [folder / "client.pcapng", folder / "server.pcapng"]
    with lossy_path(LOSS) as (client, server), captured(client, paths[0]), captured(server, paths[1]):
        transfers(client, server, count=CONNECTIONS, size=150_000)
    return [compare(shutil.which("tshark"), path) for path in paths]


def test_counts_are_equal_under_loss(found):
    """Packets, bytes, windows, keep-alives and SYNs, of every connection."""
    exact = {"packets and bytes", "zero windows", "window full", "keep-alives", "SYN outcome", "SYN repeats"}
    for file in found:
        assert file.conversations > CONNECTIONS // 2
        assert [one for one in file.disagreements if one.measure in exact] == []


def test_late_segments_are_classified_alike_under_loss(found):
    """Of the segments that were lost and sent again, both say the same for 98 % and more, on either side of the loss."""
    for file in found:
        theirs, ours = file.events["retransmissions"]
        assert theirs > CONNECTIONS
        assert abs(theirs - ours) <= (1 - REACH) * theirs + 1
        assert file.events["out of order"][1] <= file.events["out of order"][0] + 1
