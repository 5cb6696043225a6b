"""A request goes over to HTTP/2 while both ends speak: what begins the frames is handled on two processors at once."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from proto.columns import ExchangeEnd, Observer, Role
from services.capture.flows.exchange_table import ExchangeTable
from services.capture.live.records import monotonic_ns
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from tests.support.node.live_capture import reason_to_skip
from tests.support.node.namespaces import Network
from tests.support.packets.talks.http2_talk import context

ROOT = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.xdist_group("socket_tap"),
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or ""),
]
COUNT = 1000
FIRST = random.SystemRandom().getrandbits(62)
"""The number of the first request, which its ids are made of: another run's are seen too."""


def test_whoever_goes_on_first():
    """Each of a thousand requests is told at both ends with the response on its stream 1."""
    with Network() as network, SocketTap(capacity=16_384, trace_context=True, rules=TapRules(loopback=True)) as tap:
        command = (sys.executable, "-m", "tests.support.calls.switching", str(FIRST), str(COUNT))
        talk = network.namespace("alone").spawn(command, cwd=ROOT)
        assert talk.wait(timeout=120) == 0
        tap.detach()
        emissions = list(ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True))
    asked = {bytes.fromhex(context(number)[3:35]) for number in range(FIRST, FIRST + COUNT)}
    rows = [{name: column[place] for name, column in each.columns.items()} for each in emissions for place in range(len(each))]
    rows = [row for row in rows if row["trace_id"].tobytes() in asked]
    for role in (Role.CLIENT, Role.SERVER):
        mine = [row for row in rows if row["role"] == role]
        assert {(row["exchange_end"], row["http_status"], row["record"] & 0x7FFFFFFF) for row in mine} == {
            (ExchangeEnd.STREAM, 200, 1)
        }
        assert len(mine) == len({row["trace_id"].tobytes() for row in mine}) == COUNT
