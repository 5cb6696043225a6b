"""TCP measures against tshark's tcp.analysis over the captures in the folder named by WIRESPAN_PCAPS."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.support.packets.oracle.accuracy import MEASURES, captures, compare

FOLDER = os.environ.get("WIRESPAN_PCAPS")
REACH = 0.98

pytestmark = pytest.mark.skipif(not FOLDER, reason="WIRESPAN_PCAPS names no folder of captures")


@pytest.fixture(scope="module")
def found():
    """Every capture compared."""
    tshark = shutil.which("tshark")
    if tshark is None:
        pytest.skip("tshark is not installed")
    return [compare(tshark, path) for path in captures(Path(FOLDER))]


def test_counts_are_equal_for_every_conversation(found):
    """Packets and bytes of each direction, zero and full windows, keep-alives, SYN outcomes and repeats."""
    exact = set(MEASURES) - {"retransmissions", "out of order", "duplicate ACKs", "initial RTT"}
    assert [(file.name, one) for file in found for one in file.disagreements if one.measure in exact] == []


def test_late_segments_are_classified_alike(found):
    """Retransmissions and out-of-order segments agree, each by its own count, for 98 % of the conversations and more."""
    conversations = sum(file.conversations for file in found)
    agreeing = Counter()
    for file in found:
        agreeing.update(file.agreeing)
    assert conversations > 0
    for measure in ("retransmissions", "out of order"):
        assert agreeing[measure] >= REACH * conversations, measure


def test_every_disagreement_has_a_reason(found):
    """What differs differs by definition: each class is named in docs/accuracy.md."""
    assert [(file.name, one) for file in found for one in file.disagreements if not one.reason] == []
