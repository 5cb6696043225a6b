"""From requests to questions: which spans are asked about, of which nodes, and with which addresses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from proto.asked.batch import AskedBatch, encode_asked_parts
from proto.asked.columns import ASKED, OTHER_END, SpanKind
from proto.flow_batch import Array
from proto.subjects import asked_subject
from services.enricher.index.index import Index
from services.enricher.intake.clocks import SendersClocks
from services.enricher.intake.counts import IntakeCounts
from services.enricher.intake.door import Waiting
from services.enricher.intake.locals import Local, Locals
from services.enricher.intake.peers import NOWHERE, UNKNOWN, Peer, Peers
from services.enricher.intake.scan import NO_NAME, SPAN, Scanned, scan

ROW: Final = np.dtype([(column.name, column.dtype) for column in ASKED])
_MINUTE_NS: Final = np.uint64(60_000_000_000)
"""What captures remember is seconds, and clocks that are further apart than this meet nothing."""
_NOWHERE: Final = np.void(NOWHERE)
_NO_SPAN: Final = np.void(bytes(8))
_LITERAL: Final = Peer((NOWHERE,), "literal")
_COPIED: Final = ("trace_id", "span_id", "flags", "kind", "start_ns", "end_ns", "local_port", "peer_port")


class _Pile:
    """Questions to one node, until they are sent."""

    def __init__(self) -> None:
        self.locals: dict[str, int] = {}
        self.rows: list[Array] = []
        self.questions = 0

    def messages(self, node: str, limit: int) -> Iterator[tuple[int, bytes]]:
        rows = np.concatenate(self.rows)
        columns = {column.name: np.ascontiguousarray(rows[column.name]) for column in ASKED}
        return encode_asked_parts(AskedBatch(node, len(rows), list(self.locals), columns), limit)


class Questions:
    """Questions to all nodes, piled up. Not for several threads at once."""

    def __init__(self, counts: IntakeCounts, locals_: Locals, peers: Peers) -> None:
        self._counts = counts
        self._locals = locals_
        self._peers = peers
        self._piles: dict[str, _Pile] = {}
        self.clocks = SendersClocks()
        self.rows = 0
        """How many are piled up."""

    def add(self, request: Waiting, index: Index | None, now_unix_ns: int) -> None:
        """Pile up what is to be asked about a request's spans."""
        scanned = scan(request.body, request.spans)
        count = self._counts.spans.add
        if scanned is None:
            count("malformed", request.spans)
            return
        count("kind", scanned.kind)
        count("malformed", scanned.no_ids)
        count("beyond", scanned.beyond)
        if not len(scanned.spans):
            return
        found = [self._locals.find(resource, request.sender, index, now_unix_ns) for resource in scanned.resources]
        places = list(dict.fromkeys(local for local in found if local is not None))
        numbers = {local: number for number, local in enumerate(places)}
        of_resource = np.array([-1 if local is None else numbers[local] for local in found], np.int64)
        self._look_at_clocks(scanned.spans, of_resource, places, now_unix_ns)
        spans = self._worth_asking(scanned, of_resource, now_unix_ns)
        if not len(spans):
            return
        local = of_resource[spans["resource"]]
        peers, peer = self._peers_of(spans, local, places, scanned.names, index)
        self._pile(spans, local, places, peers, peer)
        self._pile_other_ends(spans, local, places, index, now_unix_ns)

    def messages(self, limit: int) -> list[tuple[str, int, int, bytes]]:
        """Return all that is piled up as messages: subject, questions, rows and payload. The piles are empty then."""
        made = []
        for node, pile in self._piles.items():
            rows = sum(map(len, pile.rows))
            for questions, message in pile.messages(node, limit):
                made.append((asked_subject(node), questions, rows, message))
                rows = 0
        self._piles.clear()
        self.rows = 0
        return made

    def _look_at_clocks(self, spans: Array, of_resource: npt.NDArray[np.int64], places: list[Local], now_unix_ns: int) -> None:
        ahead = spans[spans["end_ns"] > np.uint64(now_unix_ns)]
        senders = of_resource[ahead["resource"]]
        for sender in np.unique(senders[senders >= 0]).tolist():
            self.clocks.look(places[sender], int(ahead["end_ns"][senders == sender].max()), now_unix_ns)

    def _worth_asking(self, scanned: Scanned, of_resource: npt.NDArray[np.int64], now_unix_ns: int) -> Array:
        """The spans that a capture may know of."""
        spans, now = scanned.spans, np.uint64(now_unix_ns)
        left = np.ones(len(spans), np.bool_)
        reasons = {
            "unknown_local": of_resource[spans["resource"]] < 0,
            "future": spans["end_ns"] > now + _MINUTE_NS,
            "too_old": spans["end_ns"] < now - _MINUTE_NS,
            "too_long": spans["end_ns"] - spans["start_ns"] > _MINUTE_NS,
        }
        for reason, holds in reasons.items():
            self._counts.spans.add(reason, int((left & holds).sum()))
            left &= ~holds
        return spans[left]

    def _peers_of(
        self, spans: Array, local: npt.NDArray[np.int64], places: list[Local], names: Sequence[str], index: Index | None
    ) -> tuple[list[Peer], npt.NDArray[np.int64]]:
        """The peers that spans name, each once, and which of them is each span's; the first are for those without a name."""
        peers = [_LITERAL, UNKNOWN]
        literal = np.ascontiguousarray(spans["peer_address"]).view("<u8").reshape(-1, 2).any(axis=1)
        peer = np.where(literal, 0, 1)
        named = np.flatnonzero(spans["name"] != NO_NAME)
        keys = local[named] * len(names) + spans["name"][named]
        used, inverse = np.unique(keys, return_inverse=True)
        for key in used.tolist():
            place, name = divmod(key, len(names))
            peers.append(self._peers.find(names[name], places[place], index))
        peer[named] = 2 + inverse
        known = np.bincount(peer, minlength=len(peers)).tolist()
        for each, amount in zip(peers, known, strict=True):
            self._counts.peers.add(each.known, amount)
        return peers, peer

    def _pile(
        self, spans: Array, local: npt.NDArray[np.int64], places: list[Local], peers: list[Peer], peer: npt.NDArray[np.int64]
    ) -> None:
        """Put spans onto their nodes' piles, a row for each address."""
        sizes = np.array([len(each.addresses) for each in peers])
        flat = np.frombuffer(b"".join(address for each in peers for address in each.addresses), "V16")
        firsts = np.cumsum(sizes) - sizes
        indexes = np.zeros(len(places), "<u4")
        for place in np.unique(local).tolist():  # a node of which nothing is left to ask has no pile
            known = self._piles.setdefault(places[place].node, _Pile()).locals
            indexes[place] = known.setdefault(places[place].local, len(known))
        nodes = list(dict.fromkeys(each.node for each in places))
        node_of = np.array([nodes.index(each.node) for each in places])[local]
        for number, node in enumerate(nodes):
            chosen = np.flatnonzero(node_of == number)
            if not len(chosen):
                continue
            repeats = sizes[peer[chosen]]
            source = np.repeat(chosen, repeats)
            within = np.arange(len(source)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
            rows = np.empty(len(source), ROW)
            for name in _COPIED:
                rows[name] = spans[name][source]
            pile = self._piles[node]
            rows["question"] = np.repeat(np.arange(pile.questions, pile.questions + len(chosen)), repeats)
            rows["local"] = indexes[local[source]]
            addresses = flat[firsts[peer[source]] + within]
            rows["peer_address"] = np.where(peer[source] == 0, spans["peer_address"][source], addresses)
            pile.rows.append(rows)
            pile.questions += len(chosen)
            self.rows += len(rows)

    def _pile_other_ends(
        self, spans: Array, local: npt.NDArray[np.int64], places: list[Local], index: Index | None, now_unix_ns: int
    ) -> None:
        """Tell the clients' nodes by which end of which connection servers say that they were asked.

        Without a cluster nobody knows where an address is: the server's own node is told, in case the client is there too.
        """
        knows = (spans["kind"] == SpanKind.SERVER) & (spans["peer_port"] != 0)
        knows &= (spans["peer_address"] != _NOWHERE) & (spans["parent_span_id"] != _NO_SPAN)
        spans, local = spans[knows], local[knows]
        if index is not None and len(index):
            addresses, which = np.unique(spans["peer_address"], return_inverse=True)
            nodes = [self._locals.node_of(address, index, now_unix_ns) for address in addresses.tolist()]
        else:
            nodes, which = [place.node for place in places], local
        for node in dict.fromkeys(filter(None, nodes)):
            chosen = spans[np.isin(which, [number for number, each in enumerate(nodes) if each == node])]
            if not len(chosen):
                continue
            pile = self._piles.setdefault(node, _Pile())
            rows = np.zeros(len(chosen), ROW)
            for name in ("trace_id", "start_ns", "end_ns", "peer_address", "peer_port"):
                rows[name] = chosen[name]
            rows["span_id"], rows["kind"] = chosen["parent_span_id"], OTHER_END
            rows["local"] = pile.locals.setdefault("", len(pile.locals))
            rows["question"] = np.arange(pile.questions, pile.questions + len(rows))
            pile.rows.append(rows)
            pile.questions += len(rows)
            self.rows += len(rows)


assert set(_COPIED) < set(SPAN.names or ())  # noqa: S101 - both are said above
