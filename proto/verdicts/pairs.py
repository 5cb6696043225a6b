"""What both ends of a connection say together, where one alone cannot tell.

Each record is judged by itself (`rules`). Where the records of both sockets of a connection meet, `path_or_server` is decided,
and what only one of them could see counts for both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from proto.both_ends import other_ends
from proto.columns import Reason, Role
from proto.flow_batch import Array, FlowBatch
from proto.verdicts.names import Verdict, VerdictMeasure
from proto.verdicts.terms import Mask, Thresholds, View

_V, _M = Verdict, VerdictMeasure
_SERVER_KNOWS: Final = (_V.SERVER_SLOW, _V.ACCEPT_QUEUE, _V.PATH_LOSS, _V.ZERO_WINDOW, _V.MTU, _V.PATH_SLOW)
"""What the server's record says that the client's could not tell."""
_NO_TROUBLE: Final = (_V.UNKNOWN, _V.OK)


@dataclass(frozen=True, slots=True)
class _Both:
    """The records of both ends, row by row of the same connections."""

    client: View
    server: View

    def says(self, end: View, *verdicts: Verdict, by: tuple[VerdictMeasure, ...] = ()) -> Mask:
        """Where an end's record has one of these verdicts, decided by one of these measures if any are named."""
        holds: Mask = np.isin(end.column("verdict"), [int(one) for one in verdicts])
        if by:
            holds = holds & np.isin(end.column("verdict_measure"), [int(one) for one in by])
        return holds

    def waited(self, end: View) -> Array:
        """How long the response took: of an exchange its own, else the record's slowest."""
        own = end.elapsed("request_last_unix_ns", "response_first_unix_ns")
        return np.where(end.column("reason") == Reason.EXCHANGE, own, end.column("response_time_max_ns"))

    def on_path(self) -> Mask:
        """Where the client waited longer than the server took, by what a slow path takes."""
        client, server = self.waited(self.client), self.waited(self.server)
        answered = (server != 0) & (client >= server)
        slow: Mask = answered & (client - np.minimum(client, server) >= self.client.thresholds.slow_path_ns)
        return slow

    def sent_again(self) -> Mask:
        """Where a sender sent a segment again, and not in vain; each end knows of its own."""
        lost = np.zeros(self.client.batch.count, np.bool_)
        for end in (self.client, self.server):
            again = end.column("tx_retransmits") > end.column("tx_spurious_retransmits")
            lost = lost | again | (end.column("request_retransmits") != 0) | (end.column("response_retransmits") != 0)
        return lost


@dataclass(frozen=True, slots=True)
class PairRule:
    """What is known of both, and what it comes to. Without a verdict it is the server's, with its measure; without a measure
    that of the client.
    """

    text: str
    verdict: Verdict | None
    measure: VerdictMeasure | None
    test: Callable[[_Both], Mask]


_WAITED: Final = (_M.RESPONSE_TIME_MAX, _M.RESPONSE_TIME)


def _undecided(both: _Both, *by: VerdictMeasure) -> Mask:
    return both.says(both.client, _V.PATH_OR_SERVER, by=by)


PAIR_RULES: Final = (
    PairRule(
        "the client says `path_or_server`, the server `server_slow`, `accept_queue`, `path_loss`, `path_slow`, `zero_window` "
        "or `mtu`",
        None, None, lambda both: _undecided(both) & both.says(both.server, *_SERVER_KNOWS),
    ),
    PairRule(
        "the client says `path_or_server` for its SYNs, of which the server's socket saw one",
        _V.PATH_LOSS, None,
        lambda both: _undecided(both, _M.SYN_REPEATS) & (both.server.column("syn_repeats") == 0),
    ),
    PairRule(
        "the client says `path_or_server` for a response, waited slow path longer than the server took, and a segment was "
        "sent again",
        _V.PATH_LOSS, None,
        lambda both: _undecided(both, *_WAITED) & both.on_path() & both.sent_again(),
    ),
    PairRule(
        "the client says `path_or_server` for a response, and waited slow path longer than the server took",
        _V.PATH_SLOW, None,
        lambda both: _undecided(both, *_WAITED) & both.on_path(),
    ),
    PairRule(
        "the client says `path_or_server` for a response that the server took as long for",
        _V.SERVER_SLOW, None,
        lambda both: _undecided(both, *_WAITED) & (both.waited(both.server) != 0),
    ),
    PairRule(
        "the client lost something or cannot know, the server says `mtu`",
        None, None,
        lambda both: both.says(both.client, _V.PATH_LOSS, *_NO_TROUBLE) & both.says(both.server, _V.MTU),
    ),
    PairRule(
        "the client says nothing is wrong or cannot know, the server says what is",
        None, None,
        lambda both: both.says(both.client, *_NO_TROUBLE) & ~both.says(both.server, *_NO_TROUBLE),
    ),
)  # fmt: skip
"""From the first that counts to the last; where none holds, the client's verdict stands."""


def decided(batch: FlowBatch, thresholds: Thresholds | None = None) -> FlowBatch:
    """Return a judged batch in which the clients' `path_or_server` is decided wherever the server's record is in it too."""
    rows = np.flatnonzero((batch.column("verdict") == _V.PATH_OR_SERVER) & (batch.column("role") == Role.CLIENT))
    others = other_ends(batch, rows)
    clients, servers = rows[others >= 0], others[others >= 0]
    if not len(clients):
        return batch
    both = together(batch.take(clients), batch.take(servers), thresholds)
    columns = {name: batch.column(name).copy() for name in ("verdict", "verdict_measure")}
    for name, values in zip(columns, both, strict=True):
        columns[name][clients] = values
    return replace(batch, columns={**batch.columns, **columns})


def together(clients: FlowBatch, servers: FlowBatch, thresholds: Thresholds | None = None) -> tuple[Array, Array]:
    """Return the verdict and the measure of connections, of which each row of both judged batches is one end."""
    limits = thresholds or Thresholds()
    both = _Both(View(clients, limits), View(servers, limits))
    verdict, measure = (clients.column(name).copy() for name in ("verdict", "verdict_measure"))
    for rule in reversed(PAIR_RULES):
        holds = rule.test(both)
        from_server = rule.verdict is None
        np.copyto(verdict, servers.column("verdict") if from_server else np.uint8(rule.verdict or 0), where=holds)
        chosen = servers if from_server else clients
        np.copyto(measure, chosen.column("verdict_measure"), where=holds)
    return verdict, measure
