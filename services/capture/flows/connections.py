"""What a TCP connection's slot does not say by itself: an answer that never came, what a RST cut short, how the role is known.

All on columns: `rows` are slots, one value for each. Words are compared by their `value`: with an enum's member itself numpy
takes 8 us to see that it is a number (CPython 3.11), and a look at a table has some thirty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from proto.columns import End, Observer, Outcome, Reason, Role, RoleSource
from services.capture.flows.layout import (
    KNOWN_ACKNOWLEDGED,
    KNOWN_ISN,
    KNOWN_NEXT,
    KNOWN_ROLE,
    KNOWN_ROLE_SHIFT,
    Array,
    Requests,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.capture.flows.layout import Slots
    from services.capture.flows.timing import FlowTableSettings

_NS: Final = 1_000_000_000
_TCP: Final = 6
_FIN: Final = 0x01
_AHEAD: Final = np.uint32(1 << 31)
"""Sequence numbers wrap: less than this ahead is ahead (RFC 9293 3.4)."""


def outcome(rows: Slots, reasons: Array, now_ns: int, settings: FlowTableSettings) -> Array:
    """Return outcomes. Silence is what the engine cannot see: a SYN that was given up on has timed out.

    A client that asked again had no answer; if it then sends a RST, it gave up. One that sends it at once may have had an
    answer that was not captured.
    """
    waiting = (rows["outcome"] == Outcome.HALF_OPEN.value) & (rows["syn_ns"] != 0) & (rows["syn_ack_ns"] == 0)
    given_up = (reasons == Reason.IDLE_TIMEOUT.value) | (reasons == Reason.END_OF_FLOW.value)
    waited_ns = now_ns - rows["syn_ns"].astype(np.int64)
    given_up |= (reasons == Reason.SHUTDOWN.value) & (waited_ns >= int(settings.given_up_seconds * _NS))
    client = np.where(rows["role"] == Role.CLIENT.value, np.uint8(End.LOCAL.value), np.uint8(End.REMOTE.value))
    given_up &= rows["closed_by"] == End.NONE.value
    given_up |= (rows["closed_by"] == client) & (rows["syn_repeats"] != 0)
    return np.where(waiting & given_up, np.uint8(Outcome.TIMEOUT.value), rows["outcome"])


def cut_short(rows: Slots) -> Array:
    """Return where a RST took something from the other end.

    A client that waits for nothing more and closes by RST, as a probe with SO_LINGER 0 does, took nothing from anybody; nor did
    an end that had said by a FIN that it is done, and answers by RST what comes yet. A server's RST to a client that is not
    done always may: whether its response was over by then is not known here.
    """
    by_rst = (rows["outcome"] == Outcome.RESET.value) | (
        (rows["outcome"] == Outcome.HALF_OPEN.value) & (rows["syn_ack_ns"] != 0)
    )
    by_rst &= rows["closed_by"] != End.NONE.value
    by_local = rows["closed_by"] == End.LOCAL.value
    sender_done, other_done = (
        np.where(by_local == local, rows["tx_fins"], rows["rx_fins"]) != 0 for local in (np.True_, np.False_)
    )
    under_way = (_in_flight(rows, "tx") | _in_flight(rows, "rx")) & ~sender_done
    under_way |= (rows["role"] == np.where(by_local, Role.SERVER.value, Role.CLIENT.value)) & ~other_done
    cut: Array = by_rst & ((under_way & (rows["outcome"] == Outcome.RESET.value)) | (rows["request_ns"] != 0))
    return cut


def role_source(rows: Slots, observer: Observer) -> Array:
    """Return how the roles of TCP connections are known."""
    kept = (rows["tx_known"] & KNOWN_ROLE) >> KNOWN_ROLE_SHIFT
    shaken = ((rows["tx_known"] | rows["rx_known"]) & KNOWN_ISN) != 0
    asked = RoleSource.LISTENER.value if observer == Observer.SOCKET else RoleSource.UNKNOWN.value
    source = np.where(kept != 0, kept, np.where(shaken, np.uint8(RoleSource.HANDSHAKE.value), np.uint8(asked)))
    return np.where(
        (rows["transport"] == _TCP) & (rows["role"] != Role.UNKNOWN.value), source, np.uint8(RoleSource.UNKNOWN.value)
    )


def unheard(rows: Slots, observer: Observer) -> Array:
    """Return where a capture holds one direction only, and nothing of the server, not even an ACK.

    Whether a request there was answered nobody can know, unless it is sent again: then it was not.
    """
    of_server = np.where(rows["role"] == Role.CLIENT.value, rows["rx_packets"], rows["tx_packets"])
    resent = np.where(rows["role"] == Role.CLIENT.value, rows["tx_retransmits"], rows["rx_retransmits"])
    silent: Array = (rows["transport"] == _TCP) & (of_server == 0) & (resent == 0)
    return silent & (observer == Observer.CAPTURE)


def waiting(rows: Slots) -> Array:
    """Return how many requests of each flow have no response yet; 255 stands for more."""
    questions = (rows["questions"] - rows["responses"]).astype(np.int32).clip(0, 255)
    waiting: Array = np.where(rows["requests"] == Requests.NUMBERED.value, questions, rows["request_ns"] != 0)
    return waiting


def without_role(columns: Mapping[str, Array]) -> Array:
    """Return which records are of TCP connections whose client nobody could tell; a RST alone is none."""
    packets = columns["tx_packets_total"] + columns["rx_packets_total"]
    resets = columns["tx_resets"].astype(np.uint64) + columns["rx_resets"]
    unknown: Array = (columns["transport"] == _TCP) & (columns["role"] == Role.UNKNOWN.value) & (packets > resets)
    return unknown


def _in_flight(rows: Slots, side: str) -> Array:
    """Return where a side had sent payload that was not acknowledged; its FIN is none."""
    known = KNOWN_NEXT | KNOWN_ACKNOWLEDGED
    ahead = rows[f"{side}_next_sequence"] - rows[f"{side}_acknowledged"]
    fin = (rows[f"{side}_tcp_flags"] & _FIN) != 0
    some: Array = ((rows[f"{side}_known"] & known) == known) & (ahead > fin) & (ahead < _AHEAD)
    return some
