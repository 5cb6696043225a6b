"""TLS handshakes: `tls.*`, `flow.tls.*`, and the status of those that an alert ended."""

from __future__ import annotations

from typing import Final

import numpy as np

from proto.columns import TLS, Outcome
from proto.flow_batch import Array, AttributeValue
from proto.tls import (
    ALERT,
    ALERT_BY_SERVER,
    ALERT_ENCRYPTED,
    ECH,
    HARMLESS_ALERTS,
    QUIC,
    QUIC_2,
    RESUMED,
    RESUMPTION_KNOWN,
    alert,
    cipher,
    version,
)
from services.exporter.otlp.piece_table import Column, Table
from services.exporter.otlp.protobuf_wire import attribute
from services.exporter.spans.names.questions import NameNumbers, failed_lookups
from services.exporter.spans.pieces import status
from services.exporter.spans.records import Records
from services.exporter.spans.selection import Selection

ERROR: Final = "tls_alert"
_COLUMNS: Final = tuple(column.name for column in TLS)
# A key's words: version, cipher, flags, alert and error; the protocol and those offered.
_CIPHER, _FLAGS, _ALERT, _ERROR, _TOLD = 16, 32, 40, 48, 49
_OFFERED: Final = 32
_CONNECTION_FAILED: Final = np.isin(np.arange(256), [Outcome.REFUSED, Outcome.TIMEOUT])


def failed_handshakes(flags: Array, alerts: Array) -> Array:
    """Return where an alert ended a handshake, by `tls_flags` and `tls_alert`."""
    harmful = ((flags & ALERT_ENCRYPTED) != 0) | ~np.isin(alerts, HARMLESS_ALERTS)
    failed: Array = ((flags & ALERT) != 0) & harmful
    return failed


def _errors(records: Records) -> Array:
    """Return where that is the span's error. What else failed, the connection or a lookup, stands before it."""
    before = _CONNECTION_FAILED.take(records.column("outcome")) | (records.column("cut_short") != 0)
    failed = failed_handshakes(records.column("tls_flags"), records.column("tls_alert"))
    errors: Array = failed & ~before & (failed_lookups(records) == 0)
    return errors


class Handshakes:
    """The attributes of words; those of numbers are in the one table."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._table = Table(self._make, words=2)
        self._names = NameNumbers()

    def columns(self, records: Records) -> tuple[Column, ...]:
        """Return the piece of each record's handshake; none where no record of the batch has one."""
        if not records.has(*_COLUMNS):
            return ()
        if self._table.full:
            self._table.clear()
            self._names = NameNumbers()
        version, cipher, flags, alerts = (records.column(f"tls_{name}") for name in ("version", "cipher", "flags", "alert"))
        protocol, offered = (
            self._names.of(records.batch.names, records.column(f"tls_{name}")) for name in ("protocol", "offered_protocols")
        )
        numbers = np.zeros(records.count, np.uint64)
        for part, shift in (
            (version, 0),
            (cipher, _CIPHER),
            (flags, _FLAGS),
            (alerts, _ALERT),
            (_errors(records), _ERROR),
        ):
            numbers |= part.astype(np.uint64) << np.uint64(shift)
        told = (version != 0) | (flags != 0) | (protocol | offered != 0)
        numbers |= np.uint64(1 << _TOLD)
        return (self._table.column(np.where(told, numbers, 0), np.where(told, protocol | offered << np.uint64(_OFFERED), 0)),)

    def _make(self, key: tuple[int, ...]) -> bytes:
        numbers, names = key
        if not numbers >> _TOLD:
            return b""
        found = self._values(numbers)
        found["tls.next_protocol"] = self._names[names & (1 << _OFFERED) - 1] or None
        found["flow.tls.offered_protocols"] = self._names[names >> _OFFERED] or None
        failed = numbers >> _ERROR & 1
        if failed:
            found["error.type"] = ERROR
        out = b"".join(
            attribute(name, value) for name, value in found.items() if value is not None and self._selection.has(name)
        )
        return out + status(f"a TLS handshake was ended by the alert {found['flow.tls.alert']}") if failed else out

    def _values(self, numbers: int) -> dict[str, AttributeValue | None]:
        flags, said = numbers >> _FLAGS & 0xFF, numbers >> _ALERT & 0xFF
        found: dict[str, AttributeValue | None] = {}
        if numbers & 0xFFFF:
            found["tls.protocol.name"], found["tls.protocol.version"] = version(numbers & 0xFFFF)
            found["tls.cipher"] = cipher(numbers >> _CIPHER & 0xFFFF)
        if flags & QUIC:
            found["network.protocol.name"], found["network.protocol.version"] = "quic", "2" if flags & QUIC_2 else "1"
        found["tls.resumed"] = bool(flags & RESUMED) if flags & RESUMPTION_KNOWN else None
        found["flow.tls.ech_offered"] = True if flags & ECH else None
        if flags & ALERT:
            found["flow.tls.alert"] = "encrypted" if flags & ALERT_ENCRYPTED else alert(said)
            found["flow.tls.alert_by"] = "destination" if flags & ALERT_BY_SERVER else "source"
        return found
