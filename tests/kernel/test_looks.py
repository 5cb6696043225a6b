"""A look at the socket tap's table: what it costs is up to what lives, not to what ever lived."""

from __future__ import annotations

import socket

import pytest

from proto.columns import Observer, Reason
from services.capture.flows.table import FlowTable
from services.capture.live.records import monotonic_ns
from services.capture.live.tap.slot_windows import WINDOW_SLOTS
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from tests.support.node.live_capture import WAIT_SECONDS, reason_to_skip

pytestmark = pytest.mark.xdist_group("socket_tap")

_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)

WINDOWS = 3


def send(receiver: socket.socket, number: int) -> None:
    """One datagram of a sender of its own: a flow at each end."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((f"127.1.{number // 20_000}.1", 10_000 + number % 20_000))
        sender.sendto(b"x", receiver.getsockname())
    receiver.recv(16)


def test_windows_in_which_nothing_lives_are_passed_over() -> None:
    """Flows of several windows are all found; once they are over none of their windows is read, and a new flow is found."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.1.9.1", 0))
        receiver.settimeout(WAIT_SECONDS)
        rules = TapRules(loopback=True, allow_networks=("127.1.0.0/16",))  # where nobody else is
        with SocketTap(rules=rules) as tap:
            table = FlowTable(tap, observer=Observer.SOCKET)
            for number in range(WINDOWS * WINDOW_SLOTS // 2):
                send(receiver, number)
            assert [first for first, _ in tap.windows()] == [each * WINDOW_SLOTS for each in range(WINDOWS)]
            told = 0
            for emission in table.drain(monotonic_ns(), Reason.SHUTDOWN):
                told += len(emission)
                table.accept(emission)
            assert told == WINDOWS * WINDOW_SLOTS
            assert (tap.used_slots, list(tap.windows())) == (0, [])
            assert tap.high_slot >= WINDOWS * WINDOW_SLOTS
            send(receiver, 0)
            assert len([first for first, _ in tap.windows()]) in {1, 2}
            assert sum(map(len, table.drain(monotonic_ns(), Reason.SHUTDOWN))) == 2
