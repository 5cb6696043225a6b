"""What was looked up: a record's first and slowest DNS question, whether lookups failed, and which name led to a peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from proto.columns import NO_ANSWER, NO_INDEX, UNANSWERED, Outcome, Resolution
from proto.dns import SERVER_FAILURE, record_type, response_code
from proto.flow_batch import Array, AttributeValue
from services.exporter.otlp.piece_table import Column, Table
from services.exporter.otlp.protobuf_wire import attribute
from services.exporter.spans.identity import Kind, Mask
from services.exporter.spans.pieces import status
from services.exporter.spans.records import Records
from services.exporter.spans.selection import Selection

FIRST: Final = ("dns.question.name", "dns.question.type", "dns.response_code", "flow.dns.answer.count")
SLOWEST: Final = tuple(f"flow.dns.slowest.{name}" for name in ("name", "type", "response_code", "answer.count"))

_ERRORS: Final = {
    1: ("dns_server_failure", "a DNS question was answered by SERVFAIL"),
    2: ("dns_no_answer", "a DNS question was never answered"),
}
# A key's words: name, type and code; flags, error and answers.
_TOLD, _OF_SLOWEST = 1, 2
_ERROR, _ANSWERS = 2, 8
_ERROR_MASK: Final = 3
_NAME, _TYPE = 32, 16
_CONNECTION_FAILED: Final = np.isin(np.arange(256), [Outcome.REFUSED, Outcome.TIMEOUT])


def failed_lookups(records: Records) -> Array:
    """Return which error a record's lookups come to, 0 for none. That of its connection stands before it."""
    if not records.has("dns_codes"):
        return np.zeros(records.count, np.uint64)
    codes = records.column("dns_codes")
    error = np.where(codes[:, SERVER_FAILURE] != 0, 1, np.where(codes[:, UNANSWERED] != 0, 2, 0)).astype(np.uint64)
    of_connection = _CONNECTION_FAILED.take(records.column("outcome")) | (records.column("cut_short") != 0)
    found: Array = np.where(of_connection, np.uint64(0), error)
    return found


class NameNumbers:
    """Names by number; 0 is none."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names = [""]

    def __getitem__(self, number: int) -> str:
        return self._names[number]

    def of(self, names: Sequence[str], indexes: Array) -> Array:
        """Return the number of each name that an index column points at."""
        known = np.array([*map(self._number, names), 0], np.uint64)
        numbers: Array = known[np.minimum(indexes, len(names))]
        return numbers

    def _number(self, name: str) -> int:
        number = self._numbers.setdefault(name, len(self._names)) if name else 0
        if number == len(self._names):
            self._names.append(name)
        return number


class ServerNames:
    """`server.address`: the name that the client asked its server for by TLS, else the one that it had looked up for a
    destination that nobody else knows. Where users named the destination's network, that is its name.
    """

    def __init__(self, selection: Selection, *, as_peers: bool = False) -> None:
        """`as_peers`: they are `peer.service` and `service.peer.name` of CLIENT spans too."""
        self._names_of = ["server.address"]
        self._names_of_client = [*self._names_of, *(["peer.service", "service.peer.name"] if as_peers else [])]
        self._selection = selection
        self._as_peers = as_peers
        self._table = Table(self._make)
        self._names = NameNumbers()

    def columns(self, records: Records) -> tuple[Column, ...]:
        """Return the piece of each record's name; none where no record of the batch has one."""
        if not records.has("remote_name", "tls_server_name"):
            return ()
        if self._table.full:
            self._table.clear()
            self._names = NameNumbers()
        number = self._numbers(records)
        as_peer = (records.seen.kind == Kind.CLIENT) & _nobody_else_knows(records) & self._as_peers
        return (self._table.column(number << np.uint64(1) | as_peer.astype(np.uint64)),)

    def peers(self, records: Records) -> Mask | None:
        """Where they are peers; None for nowhere."""
        if not self._as_peers or not records.has("remote_name", "tls_server_name"):
            return None
        peers: Mask = _nobody_else_knows(records) & (self._numbers(records) != 0)
        return peers

    def _numbers(self, records: Records) -> Array:
        """Return the number of each record's name, 0 for none."""
        asked_for = _unknown(records) | (records.destination("resolution") != Resolution.EXTERNAL)
        names = [
            self._names.of(records.batch.names, records.column(name)) * known
            for name, known in (("tls_server_name", asked_for), ("remote_name", _nobody_else_knows(records)))
        ]
        return np.where(names[0] != 0, *names)

    def _make(self, key: tuple[int, ...]) -> bytes:
        name = self._names[key[0] >> 1]
        attributes = self._names_of_client if key[0] & 1 else self._names_of
        return b"".join(attribute(each, name) for each in attributes if name and self._selection.has(each))


def _unknown(records: Records) -> Mask:
    """Where neither the index nor a user's networks say who the destination is."""
    unknown: Mask = (records.destination("entity") == NO_INDEX) & (records.destination("service") == NO_INDEX)
    return unknown


def _nobody_else_knows(records: Records) -> Mask:
    """Likewise where remote is the destination."""
    nobody: Mask = _unknown(records) & records.has_initiator() & records.remote_is_destination
    return nobody


class Questions:
    """`dns.*`, `flow.dns.slowest.*` and the status of failed lookups."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._table = Table(self._make, words=2)
        self._names = NameNumbers()

    def columns(self, records: Records) -> tuple[Column, ...]:
        """Return the pieces of each record's questions; none where no record of the batch has one."""
        if not records.has("dns_codes"):
            return ()
        if self._table.full:
            self._table.clear()
            self._names = NameNumbers()
        told = (records.column("dns_codes") != 0).any(axis=1)
        first = self._column(records, "first", told, failed_lookups(records) << np.uint64(_ERROR))
        slowest = told & records.has_slowest
        return first, self._column(records, "slowest", slowest, np.full(records.count, _OF_SLOWEST, np.uint64))

    def own(self, records: Records) -> Column:
        """Return the piece of each record that is a question of its own."""
        if self._table.full:
            self._table.clear()
            self._names = NameNumbers()
        code = records.column("dns_first_code")
        error = np.where(code == SERVER_FAILURE, 1, np.where(code == NO_ANSWER, 2, 0)).astype(np.uint64)
        return self._column(records, "first", np.ones(records.count, np.bool_), error << np.uint64(_ERROR))

    def _column(self, records: Records, which: str, told: Array, flags: Array) -> Column:
        numbers = self._names.of(records.batch.names, records.column(f"dns_{which}_name"))
        kind, code = (records.column(f"dns_{which}_{what}").astype(np.uint64) for what in ("type", "code"))
        answers = records.column(f"dns_{which}_answers").astype(np.uint64)
        question = numbers << np.uint64(_NAME) | kind << np.uint64(_TYPE) | code
        rest = answers << np.uint64(_ANSWERS) | flags | np.uint64(_TOLD)
        return self._table.column(np.where(told, question, 0).astype(np.uint64), np.where(told, rest, 0).astype(np.uint64))

    def _make(self, key: tuple[int, ...]) -> bytes:
        question, rest = key
        if not rest & _TOLD:
            return b""
        code = question & 0xFFFF
        answered = code != NO_ANSWER
        values: tuple[AttributeValue | None, ...] = (
            self._names[question >> _NAME] or None,
            record_type(question >> _TYPE & 0xFFFF),
            response_code(code) if answered else None,
            rest >> _ANSWERS if answered else None,
        )
        error = rest >> _ERROR & _ERROR_MASK
        names = SLOWEST if rest & _OF_SLOWEST else FIRST
        found = [(name, value) for name, value in zip(names, values, strict=True) if value is not None]
        if error:
            found.append(("error.type", _ERRORS[error][0]))
        out = b"".join(attribute(name, value) for name, value in found if self._selection.has(name))
        return out + status(_ERRORS[error][1]) if error else out
