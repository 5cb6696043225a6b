"""The compiled bpf/replay/replay.c: its functions with their types, and what it shares with Python."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

import numpy as np

from services.capture.c_library import Signatures, load_library, other_version
from services.capture.flows.exchange_layout import EXCHANGE, RequestCounter
from services.capture.flows.layout import FLOW, Disposition
from services.capture.meeting.turns import TURN
from services.capture.names.pieces import HEADER
from services.capture.replay.layout import OUTER

BLOCK_SLOTS: Final = 1024
"""Slots that are looked at together, or not at all (`BLOCK_SLOTS`)."""


class ReplayCounters(ctypes.Structure):
    """`struct replay_counters`, at the start of the handle."""

    _fields_ = (
        ("packets", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("link_bytes", ctypes.c_uint64),
        ("tunnel_bytes", ctypes.c_uint64),
        ("disposition_packets", ctypes.c_uint64 * len(Disposition)),
        ("disposition_bytes", ctypes.c_uint64 * len(Disposition)),
        ("flows", ctypes.c_uint64),
        ("used_slots", ctypes.c_uint64),
        ("high_slot", ctypes.c_uint64),
        ("clock_ns", ctypes.c_uint64),
        ("next_ns", ctypes.c_uint64),
        ("file_bytes_read", ctypes.c_uint64),
    )


class OpenExchanges(ctypes.Structure):
    """`struct exchanges` of bpf/replay/exchanges/open_exchanges.h."""

    _fields_ = (
        ("of_slot", ctypes.c_void_p),
        ("open", ctypes.c_void_p),
        ("ended", ctypes.c_void_p),
        ("open_count", ctypes.c_uint64),
        ("ended_count", ctypes.c_uint64),
        ("ended_room", ctypes.c_uint64),
        ("lost", ctypes.c_uint64),
        ("requests", ctypes.c_uint64 * len(RequestCounter)),
    )


class TurnsKept(ctypes.Structure):
    """`struct turns` of bpf/replay/exchanges/turns.h, without the ended ones that follow."""

    _fields_ = (("ended_count", ctypes.c_uint64), ("of_slot", ctypes.c_void_p))


class Pieces(ctypes.Structure):
    """`struct pieces` of bpf/replay/pieces.h, without the bytes that follow."""

    _fields_ = (("used", ctypes.c_uint64), ("wanted", ctypes.c_uint64))


@cache
def library() -> Any:
    """The compiled bpf/replay/replay.c. Raises CaptureError where the installation lacks it, or has it of another version."""
    handle, pointer, size, text, number = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_uint64
    signatures: Signatures = {
        "replay_new": (handle, (pointer, pointer, pointer, pointer, ctypes.c_uint32)),
        "replay_close": (None, (handle,)),
        "replay_check_file": (ctypes.c_int, (ctypes.c_int, pointer, text, size)),
        "replay_open_file": (ctypes.c_int, (handle, ctypes.c_int, ctypes.c_uint32, text, size)),
        "replay_fault": (text, (handle,)),
        "replay_unreadable": (number, (handle,)),
        "replay_advance": (ctypes.c_int, (handle, number, number)),
        "replay_retire": (None, (handle, pointer, size)),
        "replay_release": (None, (handle, pointer, size)),
        "replay_datagrams": (None, (handle, pointer, size, number)),
        "replay_trace": (ctypes.c_int, (handle,)),
        "replay_exchanges": (pointer, (handle,)),
        "replay_calls": (pointer, (handle,)),
        "replay_open_exchanges": (None, (handle, pointer)),
        "replay_end_exchanges": (None, (handle, pointer, size)),
        "replay_exchanges_taken": (None, (handle,)),
        "replay_turns": (pointer, (handle,)),
        "replay_pieces": (pointer, (handle,)),
        "replay_layout": (None, (pointer,)),
    }
    found = load_library(signatures)
    sizes = np.zeros(6, np.uint64)
    found.replay_layout(sizes.ctypes.data)
    expected = [FLOW.itemsize, OUTER.itemsize, ctypes.sizeof(ReplayCounters), EXCHANGE.itemsize, HEADER.size, TURN.itemsize]
    if sizes.tolist() != expected:
        raise other_version(f"{sizes.tolist()}, not {expected}")
    return found
