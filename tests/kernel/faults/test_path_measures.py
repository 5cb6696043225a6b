"""The socket tap's measures of the path under real loss, beside the kernel's own figures."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from proto.columns import Role
from services.capture.flows.layout import State
from services.capture.live.tap.socket_tap import SocketTap
from tests.support.node.delaying_forwarder import Holding
from tests.support.node.live_capture import reason_to_skip, slots_of
from tests.support.node.lossy_path import long_path, lossy_path, transfers

CONNECTIONS = 10

pytestmark = [
    pytest.mark.xdist_group("socket_tap"),
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or ""),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("iptables") is None, reason="needs root and iptables"),
]


def captured_over(path, count=CONNECTIONS):
    """The slots of both ends of every connection over a path."""
    with SocketTap() as tap, path as (client, server):
        transfers(client, server, count=count, size=150_000)
        tap.detach()
        used = slots_of(tap)
        return used[(used["state"] == State.LIVE) & ((used["local_port"] == 8080) | (used["remote_port"] == 8080))].copy()


@pytest.fixture(scope="module")
def rows():
    """Through a router that loses 3 %."""
    return captured_over(lossy_path(0.03))


def test_a_sender_sees_only_retransmissions(rows):
    """What a socket sends below its highest byte was sent before; it overtakes nothing. The kernel counts the same."""
    servers = rows[rows["role"] == Role.SERVER]
    assert len(servers) == CONNECTIONS
    assert not servers["tx_out_of_order"].any()
    sent, kernels = int(servers["tx_retransmits"].sum()), int(servers["socket_retransmits"].sum())
    assert sent > 0
    # The kernel's figure has SYN-ACKs and FINs too, and is read at a FIN for the last time.
    assert abs(sent - kernels) <= 2 + kernels // 10
    assert (servers["tx_retransmit_bytes"] >= servers["tx_retransmits"]).all()


def test_a_receiver_sees_what_the_loss_left(rows):
    """It asks with duplicate ACKs, which the sender gets most of; what fills a hole is late, one way or the other."""
    clients, servers = (rows[rows["role"] == role] for role in (Role.CLIENT, Role.SERVER))
    asked, heard = int(clients["tx_duplicate_acks"].sum()), int(servers["rx_duplicate_acks"].sum())
    assert asked >= heard > 0
    late = clients["rx_retransmits"].astype(np.int64) + clients["rx_out_of_order"]
    assert late.sum() > 0
    assert not clients["rx_zero_windows"].any()


def late_at_receiver(rows):
    """What the sender sent again; what the receiver takes for sent again, and for overtaken."""
    clients, servers = (rows[rows["role"] == role] for role in (Role.CLIENT, Role.SERVER))
    return tuple(
        int(column.sum()) for column in (servers["tx_retransmits"], clients["rx_retransmits"], clients["rx_out_of_order"])
    )


def test_a_receiver_takes_what_was_lost_for_sent_again():
    """On a long path that loses and does not reorder: what the sender sent again is what its peer takes for it."""
    sent, taken, overtaken = late_at_receiver(captured_over(long_path(0.02, loss=0.03), 6))
    assert sent > 5
    assert sent >= taken >= 0.8 * sent - 2
    assert overtaken <= 1 + 0.05 * sent


def test_a_receiver_takes_what_was_held_up_for_overtaken():
    """On a path that reorders and loses nothing: what was overtaken is not taken for a loss, duplicate ACKs or not."""
    sent, taken, overtaken = late_at_receiver(captured_over(long_path(0.02, holding=Holding(20, 0.005)), 6))
    assert overtaken > 5
    assert abs(taken - sent) <= 1 + 0.1 * overtaken


def test_a_sender_knows_what_it_sent_again_in_vain(rows):
    """What its receiver had (DSACK) was not lost: most of what is sent again where nothing is, but for what the receiver says
    after the sender has closed; little where something is.
    """
    held_up = captured_over(long_path(0.02, holding=Holding(20, 0.05)), 6)
    (lost, of_lost), (late, of_late) = (
        (int(servers["tx_retransmits"].sum()), int(servers["tx_spurious_retransmits"].sum()))
        for servers in (there[there["role"] == Role.SERVER] for there in (rows, held_up))
    )
    assert lost > 5
    assert 2 * of_lost < lost
    assert late > 5
    assert 2 * of_late > late
