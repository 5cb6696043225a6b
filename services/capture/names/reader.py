"""Pieces of payload read, and what the records of their flows say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Final

import numpy as np

from proto.columns import NO_INDEX, Role
from proto.flow_batch import Array
from services.capture.flows.table import Emission
from services.capture.names.dns_message import read_message
from services.capture.names.dns_stream import DnsStreams
from services.capture.names.handshakes import Handshake, HandshakeTable, handshake_columns
from services.capture.names.lookups import Lookups
from services.capture.names.peers import PeerNames
from services.capture.names.pieces import KINDS, Names, Piece, PieceKind
from services.capture.names.question_records import QuestionRecords, QuestionRules
from services.capture.names.questions import FlowQuestions, NameList, QuestionTable, question_columns, question_records
from services.capture.names.quic_keys import has_keys
from services.capture.names.setup import Flows, set_up_columns
from services.runtime.privacy.pseudonyms import domain_pseudonym

_MOST_PSEUDONYMS: Final = 4096
"""That are not made again."""


@dataclass(frozen=True, slots=True, eq=False)
class NamesTold:
    """What an emission's records say of names. Put it back where the records are refused."""

    columns: Mapping[str, Array]
    names: tuple[str, ...]
    """What index columns point at."""
    questions: Mapping[int, FlowQuestions]
    records: QuestionRecords
    """Those of the questions that have records of their own."""
    handshakes: Mapping[int, Handshake]


class NameReader:
    """Reads pieces and keeps what they say until it is told. Not for two threads at once."""

    def __init__(
        self, names: Names = "all", hidden: Sequence[str] = (), rules: QuestionRules | None = None, key: bytes = b""
    ) -> None:
        """`hidden` are domains: of a name in one of them nothing is kept but the domain. `rules` say which questions have
        records of their own. With a `key` names are told by their pseudonyms.
        """
        self.kinds: tuple[PieceKind, ...] = tuple(kind for kind in KINDS[names] if kind != PieceKind.QUIC or has_keys())
        """Of which pieces are asked for."""
        self._hidden = tuple(f".{domain.strip('.').lower()}" for domain in hidden)
        self._rules = rules
        self._questions = QuestionTable(rules)
        self._kept = lru_cache(_MOST_PSEUDONYMS)(partial(domain_pseudonym, key)) if key else str
        self._handshakes = HandshakeTable(self._without_hidden)
        self._peers = PeerNames()
        self._lookups = Lookups()
        self._streams = DnsStreams()
        self._read = 0
        self._unreadable = 0

    def read(self, pieces: Iterable[Piece]) -> None:
        """Take over what pieces say."""
        for piece in pieces:
            if piece.kind == PieceKind.DNS:
                self._count(self._read_message(piece, piece.content))
            elif piece.kind in {PieceKind.TLS, PieceKind.QUIC}:
                self._count(self._handshakes.add(piece))
            else:
                for content in self._streams.messages(piece):
                    self._count(self._read_message(piece._replace(since_ns=0), content))

    def _count(self, is_read: bool) -> None:  # noqa: FBT001
        self._read += is_read
        self._unreadable += not is_read

    def _read_message(self, piece: Piece, content: bytes) -> bool:
        message = read_message(content)
        if message is None:
            return False
        if message.name is not None:
            message = replace(message, name=self._without_hidden(message.name))
        told = self._questions.add(piece, message)
        if told is not None:
            self._lookups.learn(piece, message, told)
        self._peers.learn(piece, message)
        return True

    def _without_hidden(self, name: str) -> str:
        for domain in self._hidden:
            if f".{name}".endswith(domain):
                return self._kept(domain[1:])
        return self._kept(name)

    def tell(self, emission: Emission, owners: Array | None = None) -> NamesTold:
        """Return what the records of an emission say of names.

        `owners` are whose sockets the flows are, as pieces have it; None: those of the local addresses, as in a capture file.
        """
        columns, names = emission.columns, NameList()
        waits = columns["request_waits"] != 0
        questions = self._questions.take(columns["flow_id"], emission.final, waits, emission.now_unix_ns)
        told = question_columns(questions, len(emission), names) | self._peer_column(columns, owners, names)
        handshakes = self._handshakes.take(columns["flow_id"], emission.final)
        if handshakes:
            told |= handshake_columns(handshakes, columns["cut_short"], names)
        records = question_records(questions, names)
        return NamesTold(told, names.names, questions, records, handshakes)

    def tell_exchanges(
        self, columns: Mapping[str, Array], flows: Flows, owners: Array | None = None, offset_ns: int = 0
    ) -> NamesTold:
        """Return what records that are not of flows, but of their exchanges, say of names: who the peer is, and what the first
        of a connection waited for, with Unix times: `offset_ns` is added to the packets' clock. `flows` finds those of lookups.
        """
        names = NameList()
        whose = _owners_by_address(columns["local_address"]) if owners is None else owners
        told = self._peer_column(columns, owners, names)
        told |= set_up_columns(columns, whose, self._lookups, self._handshakes, names, flows, offset_ns)
        return NamesTold(told, names.names, {}, question_records({}, names), {})

    def _peer_column(self, columns: Mapping[str, Array], owners: Array | None, names: NameList) -> dict[str, Array]:
        """Return `remote_name`, where a client's flow has one."""
        if not len(self._peers):
            return {}
        clients = (columns["role"] == Role.CLIENT).nonzero()[0]
        addresses = columns["remote_address"][clients]
        whose = _owners_by_address(columns["local_address"]) if owners is None else owners
        named = np.full(len(columns["role"]), NO_INDEX, np.uint32)
        for row, name in self._peers.names(whose[clients], addresses, columns["flow_start_unix_ns"][clients]):
            named[clients[row]] = names.place(name)
        return {"remote_name": named}

    def may_multiplex(self, flow_id: int) -> bool:
        """As `HandshakeTable.may_multiplex`."""
        return self._handshakes.may_multiplex(flow_id)

    def leave(self) -> None:
        """Tell nothing of the questions so far: another capture does. Whose names they were is known all the same."""
        self._questions = QuestionTable(self._rules)

    def put_back(self, emission: Emission, told: NamesTold) -> None:
        """The records are stored nowhere and never will be: what they said is due again."""
        self._questions.put_back(emission.columns["flow_id"], told.questions)
        self._handshakes.put_back(emission.columns["flow_id"], told.handshakes)

    @property
    def counters(self) -> dict[str, int]:
        """Pieces that came, by what became of them."""
        return {
            "pieces_read": self._read,
            "pieces_unreadable": self._unreadable,
            "pieces_stream_lost": self._streams.lost,
            "pieces_forgotten": self._questions.forgotten + self._handshakes.forgotten,
            "pieces_question_without_record": self._questions.without_record,
            "pieces_address_forgotten": self._peers.forgotten,
        }


def _owners_by_address(addresses: Array) -> Array:
    """Return addresses as numbers, as bpf/replay/pieces.h makes them of who asks."""
    halves = np.ascontiguousarray(addresses).view("<u8").reshape(-1, 2)
    owners: Array = halves[:, 0] ^ halves[:, 1]
    return owners
