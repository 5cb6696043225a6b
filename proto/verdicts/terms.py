"""What rules are made of: measures of a record, and conditions on them, each of which can be said and be tried on columns.

A column that a batch does not carry is one 0 for all rows, and so is what is made of such columns alone: a condition on them
costs nothing per row.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from proto.columns import COLUMNS, End, Observer, Role
from proto.flow_batch import Array, FlowBatch

Mask: TypeAlias = npt.NDArray[np.bool_]
"""One row for each record, or one for all."""

MS: Final = 1_000_000
_IPV4: Final = np.uint64(0xFFFF0000)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on something is slow, in nanoseconds."""

    slow_response_ns: int = 150 * MS
    slow_path_ns: int = 50 * MS


class View:
    """A batch's columns by client and server instead of local and remote; where nobody knows, local is the client."""

    def __init__(self, batch: FlowBatch, thresholds: Thresholds) -> None:
        self.batch = batch
        self.thresholds = thresholds
        self._known: dict[object, Array] = {}
        self.local_is_server: Mask = self.column("role") == Role.SERVER

    def once(self, key: object, make: Callable[[View], Array]) -> Array:
        """Return what `make` makes, made once for each key."""
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = make(self)
        return found

    def column(self, name: str) -> Array:
        """A column of numbers; a count of its own takes 64 bits, so that sums and products of it do not wrap."""
        found = self._known.get(name)
        if found is None:
            array = self.batch.columns.get(name)
            if array is None:
                found = np.array(COLUMNS[name].default, np.uint64)
            else:
                found = array if array.dtype.itemsize == 1 else array.astype(np.uint64, copy=False)
            self._known[name] = found
        return found

    def of_client(self, name: str) -> Array:
        """`tx_<name>` or `rx_<name>`, whichever the client sent."""
        return self._chosen("rx_", "tx_", name)

    def of_server(self, name: str) -> Array:
        """`tx_<name>` or `rx_<name>`, whichever the server sent."""
        return self._chosen("tx_", "rx_", name)

    def _chosen(self, at_server: str, elsewhere: str, name: str) -> Array:
        found = self._known.get((at_server, name))
        if found is None:
            found, other = self.column(at_server + name), self.column(elsewhere + name)
            if found.ndim or other.ndim:
                found = np.where(self.local_is_server, found, other)
            self._known[at_server, name] = found
        return found

    def elapsed(self, since: str, until: str) -> Array:
        """Nanoseconds between two moments; 0 where one was not seen, or they stand the wrong way round."""
        first, last = self.column(since), self.column(until)
        return np.where((first != 0) & (last > first), last - np.minimum(first, last), np.uint64(0))

    def in_this_record(self, moment: str, values: Array) -> Array:
        """The values where a moment lies in the record itself, not in an earlier one of the flow; else 0."""
        at = self.column(moment)
        return np.where((at != 0) & (at >= self.column("start_unix_ns")), values, np.uint64(0))

    def seen_at(self) -> Array:
        """Who saw it: 1 the client's socket, 2 the server's, 3 a capture file, 0 a socket that may be either end's."""
        role, captured = self.column("role"), self.column("observer") == Observer.CAPTURE
        side: Array = np.where(captured, np.uint8(3), np.where(role <= Role.SERVER, role, np.uint8(0)))
        return side

    def closer(self) -> Array:
        """Who closed: 1 the client, 2 the server, 0 nobody, or nobody knows which that is."""
        closed_by, known = self.column("closed_by"), self.column("role") != Role.UNKNOWN
        by_client = closed_by == np.where(self.local_is_server, np.uint8(End.REMOTE), np.uint8(End.LOCAL))
        some: Array = np.where(known & (closed_by != End.NONE) & (closed_by <= End.REMOTE), 2 - by_client, 0)
        return some

    def is_ipv4(self) -> Mask:
        """Where the addresses are IPv4's."""
        halves = np.ascontiguousarray(self.batch.column("local_address")).view("<u8").reshape(-1, 2)
        ipv4: Mask = (halves[:, 0] == 0) & ((halves[:, 1] & np.uint64(0xFFFFFFFF)) == _IPV4)
        return ipv4


@dataclass(frozen=True, eq=False)
class Condition:
    """What a rule asks for."""

    text: str
    test: Callable[[View], Mask]
    of: Term | None = None
    """The number that is compared, where it is one that says something."""
    sign: str = ""
    bound: int | Term = 0

    def holds(self, view: View) -> Mask:
        """Where it does."""
        return view.once(self, self.test)


@dataclass(frozen=True, eq=False)
class Term:
    """A number of each record."""

    text: str
    make: Callable[[View], Array]
    nanoseconds: bool = False

    def values(self, view: View) -> Array:
        """The numbers."""
        return view.once(self, self.make)

    def is_(self, *wanted: enum.IntEnum) -> Condition:
        """It is one of those."""
        names = " or ".join(f"`{one.name.lower()}`" for one in wanted)
        numbers = [int(one) for one in wanted]
        return Condition(f"{self.text} is {names}", lambda view: _any_of(self.values(view), numbers))

    def equals(self, wanted: int, said: str = "") -> Condition:
        """It is this, which is called `said`."""
        return Condition(f"{self.text} is {said or wanted}", lambda view: self.values(view) == wanted)

    def at_least(self, bound: int | Term) -> Condition:
        """It is not below."""
        text = f"{self.text} ≥ {self._said(bound)}"
        return Condition(text, lambda view: self.values(view) >= _of(bound, view), self, "≥", bound)

    def below(self, bound: int | Term) -> Condition:
        """It is below."""
        text = f"{self.text} < {self._said(bound)}"
        return Condition(text, lambda view: self.values(view) < _of(bound, view), self, "<", bound)

    def times(self, factor: int) -> Term:
        """So many times as much."""
        return Term(f"{self.text} · {factor:,}", lambda view: self.values(view) * np.uint64(factor), self.nanoseconds)

    def plus(self, other: Term) -> Term:
        """The sum."""
        return Term(f"{self.text} + {other.text}", lambda view: self.values(view) + other.values(view), self.nanoseconds)

    def _said(self, bound: int | Term) -> str:
        if isinstance(bound, Term):
            return bound.text
        return f"{bound // MS:,} ms" if self.nanoseconds else f"{bound:,}"


def _of(bound: int | Term, view: View) -> Any:
    return bound.values(view) if isinstance(bound, Term) else np.uint64(bound)


def _any_of(values: Array, wanted: Sequence[int]) -> Mask:
    found: Mask = values == wanted[0]
    for one in wanted[1:]:
        found = found | (values == one)
    return found
