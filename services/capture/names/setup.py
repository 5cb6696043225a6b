"""What a connection's first exchange waited for before it began: the name's lookup, the connect, the TLS handshake.

Only the client's exchange tells it, and only where the request followed at once: behind a connection that was opened ahead of
its time nobody waited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import numpy as np

from proto.columns import COLUMNS
from proto.flow_batch import Array
from services.capture.flows.layout import Slots
from services.capture.names.handshakes import HandshakeTable
from services.capture.names.lookups import WAITING_NS, Lookup, Lookups
from services.capture.names.questions import NameList

Flows: TypeAlias = Callable[[Array], tuple[Slots, Array]]
"""The slots of flows by their ids, zeroed where they are gone, and what makes Unix times of each one's times."""

_OF_CONNECTION: Final = ("syn_unix_ns", "handshake_ack_unix_ns", "syn_repeats")
_TOLD: Final = ("type", "code", "answers", "time_ns", "repeats")
_OF_FLOW: Final = ("local_address", "remote_address", "local_port", "remote_port")


def set_up_columns(  # noqa: PLR0917 - what there is to ask
    columns: Mapping[str, Array],
    owners: Array,
    lookups: Lookups,
    handshakes: HandshakeTable,
    names: NameList,
    flows: Flows,
    offset_ns: int,
) -> dict[str, Array]:
    """Return the columns of exchanges that tell of their connections' set-up, with Unix times; none where none does.

    Those of `columns` are on the packets' clock, to which `offset_ns` is added.
    """
    rows = np.flatnonzero(columns["handshake_ack_unix_ns"])
    if not len(rows):
        return {}
    told = {name: np.zeros_like(columns[name]) for name in _OF_CONNECTION}
    found: dict[int, Lookup] = {}
    for row in rows.tolist():
        begun_ns, ready_ns = (int(columns[name][row]) for name in ("syn_unix_ns", "handshake_ack_unix_ns"))
        handshake = handshakes.times(int(columns["flow_id"][row]))
        if handshake is not None:
            ready_ns = max(ready_ns, handshake[1])
        if not begun_ns or int(columns["request_first_unix_ns"][row]) - ready_ns > WAITING_NS:
            continue
        for name in _OF_CONNECTION:
            told[name][row] = columns[name][row] if name == "syn_repeats" else int(columns[name][row]) + offset_ns
        if handshake is not None:
            _put(told, "tls_handshake_unix_ns", row, handshake[0] + offset_ns, len(owners))
            _put(told, "tls_handshake_time_ns", row, handshake[1] - handshake[0], len(owners))
        lookup = lookups.before(int(owners[row]), columns["remote_address"][row].tobytes(), begun_ns)
        if lookup is not None:
            found[row] = lookup
    return told | _lookup_columns(found, len(owners), names, flows)


def _lookup_columns(found: Mapping[int, Lookup], count: int, names: NameList, flows: Flows) -> dict[str, Array]:
    if not found:
        return {}
    columns: dict[str, Array] = {}
    slots, offsets = flows(np.array([lookup.flow_id for lookup in found.values()], np.uint64))
    for (row, lookup), slot, offset_ns in zip(found.items(), slots, offsets.tolist(), strict=True):
        _put(columns, "dns_first_name", row, names.place(lookup.told.name), count)
        for what in _TOLD:
            _put(columns, f"dns_first_{what}", row, getattr(lookup.told, what), count)
        _put(columns, "lookup_unix_ns", row, lookup.told.asked_ns + offset_ns, count)
        if lookup.flow_id and slot["id"] == lookup.flow_id:
            _put(columns, "lookup_flow_start_unix_ns", row, int(slot["first_ns"]) + offset_ns, count)
            for member in _OF_FLOW:
                _put(columns, f"lookup_{member}", row, slot[member], count)
    return columns


def _put(columns: dict[str, Array], name: str, row: int, value: object, count: int) -> None:
    """Write a value into a column, which begins with its defaults."""
    column = COLUMNS[name]
    if name not in columns:
        columns[name] = np.full(count, column.default or np.zeros((), column.dtype), column.dtype)
    columns[name][row] = value
