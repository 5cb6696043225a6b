"""The map: workloads and outside names, and what passes between them; namespaces may be folded into one place each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from services.cli.tap.filters import FlowFilter
from services.cli.view.asked import wanted
from services.cli.view.connection import worst_of
from services.cli.view.kept import Kept
from services.cli.views import units
from services.cli.views.conversation_table import words
from services.cli.views.conversations import Conversation, conversations_of, rank
from services.cli.views.flow_view import FlowView, Peer

AUTO: Final = "auto"
_FOLDS_AT: Final = 400
"""Edges from which on all namespaces are folded, unless somebody says which."""
_OUTSIDE: Final = "outside"
_ADDRESSES: Final = "addresses"
"""What a fold of everything that has no name is called."""
_MOST_PARTS: Final = 20
"""Ports and transports of one edge that are told of: the worst. A scan of ports has a thousand."""
_NOT_OF_NAMES: Final = re.compile(r"\\x[0-9a-f]{2}|[^\w.-]")
"""What of a name that is shown stands for itself in no pattern."""


class Graph:
    """The map of the records that are wanted. `folded` are namespaces; `auto` is all of them where there is too much to see.
    `span_ns` is how much time was asked for, where any was.
    """

    def __init__(self, kept: Kept, which: FlowFilter, folded: Sequence[str], *, span_ns: int | None) -> None:
        self._kept, self._which = kept, which
        views = [view for view in kept.views(which) if view.of_flow]
        found = conversations_of(views)
        self._addresses = frozenset(peer.name for peer in _peers(views) if peer.is_address)
        self._looked_up = frozenset(peer.name for peer in _peers(views) if peer.looked_up)
        self._seconds = (span_ns if span_ns is not None else _span_ns(views)) / 1e9
        self._places = sorted({_place(name, self._addresses) for each in found for name in (each.source, each.destination)})
        fold = set(folded)
        if AUTO in fold:
            fold = set(self._places) if len(found) > _FOLDS_AT else set()
        self._fold = fold & set(self._places)
        merged = self._merged(found) if self._fold else found
        self._nobody = frozenset(peer.name for peer in _peers(views) if not peer.is_known)
        self._edges = sorted(merged, key=self._order)

    def as_json(self) -> dict[str, Any]:
        """Return all of it, of each edge what a list has room for."""
        return {
            "namespaces": self._places,
            "folded": sorted(self._fold),
            "nodes": _nodes(self._edges, self._fold, self._addresses),
            "edges": [_edge(each, self._seconds) for each in self._edges],
            "totals": _totals(self._edges),
            "worst": worst_of(self._kept, self._which) if any(map(_level, self._edges)) else None,
        }

    def edge(self, source: str, destination: str) -> dict[str, Any] | None:
        """Return what is known of what passes from one place to another, by port and transport, the worst first; None where
        nothing does.
        """
        found = [each for each in self._edges if (each.source, each.destination) == (source, destination)]
        if not found:
            return None
        return {
            "parts": [
                _edge(each, self._seconds) | {"query": self._query(each), "words": words(each), "worst": self._worst(each)}
                for each in found[:_MOST_PARTS]
            ],
            "left_out": max(len(found) - _MOST_PARTS, 0),
        }

    def _folded(self, name: str) -> str:
        place = _place(name, self._addresses)
        return f"{place}/" if place in self._fold else name

    def _merged(self, some: Iterable[Conversation]) -> list[Conversation]:
        sums: dict[tuple[str, str, int, str], Conversation] = {}
        for each in some:
            source, destination = self._folded(each.source), self._folded(each.destination)
            port = 0 if destination.endswith("/") else each.port
            named = replace(each, source=source, destination=destination, port=port)
            key = source, destination, port, each.transport
            sums.setdefault(key, Conversation(source, destination, port, each.transport)).add(named)
        return list(sums.values())

    def _worst(self, each: Conversation) -> dict[str, Any] | None:
        """Return what `explain` says of the worst of its connections; None where none has trouble."""
        if not _level(each):
            return None
        which = self._which & wanted({"q": shlex.join(_where(each))})
        ends = (each.source, each.destination)
        return worst_of(self._kept, which, *(lambda name, end=end: self._folded(name) == end for end in ends))

    def _order(self, each: Conversation) -> tuple[Any, ...]:
        """Troubles first, in the order in which `explain` looks for the worst: what happens between two that are known goes
        before what somebody does to an address where nobody may be, what happens to most connections before what to one.
        """
        known = (each.source not in self._nobody) + (each.destination not in self._nobody)
        troubled = max(each.failures, *each.verdicts.values(), 0)
        level = _level(each)
        return not level, -known if level else 0, -troubled, -level, *rank(each)

    def _query(self, each: Conversation) -> str:
        """The search that finds its records, in the tap's grammar."""
        return shlex.join([*self._end("from", each.source), *self._end("to", each.destination), *_where(each)])

    def _end(self, side: str, name: str) -> list[str]:
        if name in self._addresses:
            return [f"{side}-ip", name]
        if name.endswith("/"):
            return [] if name.removesuffix("/") in {_OUTSIDE, _ADDRESSES} else [f"{side}-namespace", name.removesuffix("/")]
        if name in self._looked_up:  # of whichever end it is
            return ["to-name", _NOT_OF_NAMES.sub("?", name)]
        return [f"{side}-workload", name]


def _peers(views: Iterable[FlowView]) -> Iterator[Peer]:
    return (peer for view in views for peer in (view.source, view.destination))


def _place(name: str, addresses: frozenset[str]) -> str:
    """The namespace of a workload; what has none is outside, by a name or by its address."""
    if name in addresses:
        return _ADDRESSES
    return name.partition("/")[0] if "/" in name else _OUTSIDE


def _where(each: Conversation) -> list[str]:
    """The search for its port and transport."""
    return [*(["to-port", str(each.port)] if each.port else []), "protocol", each.transport.partition(" ")[0]]


def _nodes(some: Sequence[Conversation], fold: set[str], addresses: frozenset[str]) -> list[dict[str, Any]]:
    nodes: dict[str, dict[str, Any]] = {}
    for each in some:
        level = _level(each)
        for name in (each.source, each.destination):
            place = name.removesuffix("/") if name.endswith("/") else _place(name, addresses)
            label = place if place in fold else name.removeprefix(f"{place}/")
            node = nodes.setdefault(name, {"id": name, "label": label, "place": place, "folded": place in fold, "level": 0})
            if name == each.destination:  # trouble is shown where it was asked for
                node["level"] = max(node["level"], level)
    return list(nodes.values())


def _level(each: Conversation) -> int:
    """How bad: 3 something failed, 2 somebody waited, 1 something was sent again or judged, 0 nothing."""
    if each.failures:
        return 3
    if each.slow_ns:
        return 2
    return 1 if each.retransmits or each.verdicts else 0


def _edge(each: Conversation, seconds: float) -> dict[str, Any]:
    return {
        "source": each.source,
        "destination": each.destination,
        "port": each.port,
        "level": _level(each),
        "transport": each.transport,
        "flows": each.flows,
        "rate": _rate(each.flows, seconds),
        "trouble": _trouble(each),
    }


def _rate(flows: int, seconds: float) -> str:
    if seconds <= 0:
        return units.counted(flows, "flow")
    per_second = flows / seconds
    return f"{per_second:.3g} flows/s" if per_second >= 1 else f"{per_second * 60:.3g} flows/min"


def _trouble(each: Conversation) -> str:
    """In a few words, what is worst of it; empty where nothing is."""
    verdict = next((name for name, _ in each.verdicts.most_common(1)), "")
    said = ""
    if each.failures:
        said = f"{units.count(each.failures)} of {units.count(each.flows)} failed"
    elif each.slow_ns:
        verdict, said = verdict or "slow", units.duration(each.slow_ns)
    elif each.retransmits:
        said = f"{units.count(each.retransmits)} resent"
    return ", ".join(filter(None, (verdict, said)))


def _totals(some: Sequence[Conversation]) -> dict[str, str]:
    return {
        "flows": units.counted(sum(each.flows for each in some), "flow"),
        "bytes": units.byte_count(sum(each.bytes_out + each.bytes_in for each in some)),
        "failed": units.count(sum(each.failures for each in some)),
        "resent": units.count(sum(each.retransmits for each in some)),
        "troubles": units.count(sum(_level(each) > 0 for each in some)),
    }


def _span_ns(views: Sequence[FlowView]) -> int:
    ends = [view.end_unix_ns for view in views]
    return max(ends) - min(ends) if ends else 0
