"""From exchanges to records: which open ones are over, and what each says.

A host keeps the exchanges (traced_exchange.h) and ends one itself when the client's next request comes. Everything else
that ends an exchange is the absence of something, or concerns its flow, and is seen here, once per tick:

- its connection is closed or reset, or its server's direction is, and has been quiet for a while;
- its response has begun and pauses: what a server streams in pieces ends at the first long pause;
- its response goes on for longer than a record of a flow may take;
- its flow is gone, or capture ends.

The first exchange of a connection also tells, at the client, how the connection was set up: it may have waited for that. What
is known of it stands in the flow's slot, and so is kept when the exchange is taken.

A request that waits for its response is open for as long as its flow is. It ended when what ended it took place: the reset, the
server's FIN, the moment at which an idle flow is given up; not with the packet, maybe another connection's, that shows it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt

from proto.columns import (
    COLUMNS,
    FIRST_EXCHANGE,
    NO_INDEX,
    ExchangeEnd,
    ExchangeMatched,
    Observer,
    Outcome,
    Reason,
    Role,
)
from proto.exchange_phases import is_broken_off
from services.capture.flows.connections import cut_short
from services.capture.flows.exchange_layout import (
    MET,
    NO_EXCHANGES,
    OF_CONNECTION,
    PART,
    STREAM_IS_FIRST,
    Exchanges,
    as_ended,
    joined,
    picked,
)
from services.capture.flows.layout import Array, State
from services.capture.flows.share import EVERYTHING, Share
from services.capture.flows.timing import FlowTableSettings

if TYPE_CHECKING:
    from services.capture.flows.layout import Slots

_NONE_ENDED: Final = as_ended(NO_EXCHANGES)

_MATCHED: Final = np.array([ExchangeMatched.CONTEXT, ExchangeMatched.SPAN], np.uint8)

MOST_WAITING: Final = 65_536
"""Exchanges that wait for the bus to take them; more are dropped, and counted."""

_NS: Final = 1_000_000_000
_TCP: Final = 6
_SWITCHING: Final = 101
_AS_THEY_ARE: Final = (
    "flow_id", "role", "local_address", "remote_address", "local_port", "remote_port", "isn_seen", "local_isn", "remote_isn",
    "trace_id", "parent_span_id", "trace_flags", "request_bytes", "response_bytes", "request_retransmits",
    "response_retransmits", "syn_repeats",
)  # fmt: skip
_TIMES: Final = {
    "flow_start_unix_ns": "flow_first_ns",
    "start_unix_ns": "request_first_ns",
    "response_first_unix_ns": "response_first_ns",
    "syn_unix_ns": "syn_ns",
    "handshake_ack_unix_ns": "handshake_ack_ns",
}
_DTYPES: Final = {name: column.numpy_dtype for name, column in COLUMNS.items()}
_CLIENT: Final = np.uint8(Role.CLIENT)
"""A number: to numpy it is not worth the search that a member of an enum is."""

Meet = Callable[[Exchanges], Exchanges]
"""Given what was read on the wire and is not told yet, open ones too; returns what is known by the spans that it was met by."""


class ExchangeHost(Protocol):
    """Who keeps the exchanges of its flows."""

    def rows(self, slots: npt.NDArray[np.uint32]) -> Slots:
        """Return a copy of these slots (indexes)."""

    def places_of(self, flow_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
        """Return the index of each of these flows' slot, which may be another's by now."""

    def open_exchanges(self) -> Exchanges:
        """Return copies of those that are not over."""

    def end_exchanges(self, exchanges: Exchanges) -> None:
        """End those that these are copies of, as their `end` and `ended_ns` say; what ended by itself meanwhile stays so."""

    def take_exchanges(self, most: int) -> Exchanges:
        """Return up to so many of those that are over, each once; none where all were taken. The others are kept."""


@dataclass(frozen=True, slots=True, eq=False)
class ExchangeEmission:
    """Records of one batch, in the order of their flows and numbers."""

    exchanges: Exchanges
    columns: dict[str, Array]
    """Those columns of proto.columns that are not 0 throughout."""
    now_unix_ns: int
    """When it was collected, on the packets' clock."""

    def __len__(self) -> int:
        return len(self.exchanges)


class ExchangeTable:
    """Makes records of a host's exchanges. Not for two threads at once."""

    def __init__(
        self, host: ExchangeHost, settings: FlowTableSettings | None = None, observer: Observer = Observer.CAPTURE
    ) -> None:
        self._host = host
        self._settings = settings or FlowTableSettings()
        self._observer = observer
        self._waiting: deque[Exchanges] = deque()
        self.dropped = 0
        """Exchanges that were given up because too many waited for the bus."""

    def drain(
        self, now_unix_ns: int, *, final: bool = False, share: Share = EVERYTHING, meet: Meet | None = None
    ) -> Iterator[ExchangeEmission]:
        """Yield the exchanges of the share that are over; with `final`, all. With those that `meet` returns.

        To be called before the flows are drained, whose slots tell why an exchange is over.
        """
        open_ = self._end(now_unix_ns, final=final)
        if meet is not None:
            taken = self._host.take_exchanges(sys.maxsize)
            self._waiting.extend(self._ended(each, now_unix_ns, share) for each in (taken, meet(joined(open_, taken))))
        while len(rows := self._due(now_unix_ns, share)):
            yield ExchangeEmission(rows, exchange_columns(rows, self._observer), now_unix_ns)

    def _due(self, now_unix_ns: int, share: Share) -> Exchanges:
        """Return what an emission holds at the most of what is over. No more is taken from the host: a batch's worth of memory
        stays in the processor's caches, and what nobody asks for is due again.
        """
        parts, room = list[Exchanges](), self._settings.max_rows
        while room and self._waiting:
            part, rest = np.split(self._waiting.popleft(), [room])
            if len(rest):
                self._waiting.appendleft(rest)
            parts.append(part)
            room -= len(part)
        while room and len(taken := self._host.take_exchanges(room)):
            parts.append(self._ended(taken, now_unix_ns, share))
            room -= len(parts[-1])
        if not parts:
            return _NONE_ENDED
        rows = parts[0] if len(parts) == 1 else joined(*parts)
        order = np.lexsort((rows["number"], rows["flow_id"]))
        return rows if (order[1:] > order[:-1]).all() else picked(rows, order)

    def refuse(self, emission: ExchangeEmission) -> None:
        """The records are stored nowhere and never will be: they are due again."""
        room = max(MOST_WAITING - sum(map(len, self._waiting)), 0)
        self._waiting.append(emission.exchanges[:room])
        self.dropped += max(len(emission) - room, 0)

    def _ended(self, taken: Exchanges, now_unix_ns: int, share: Share) -> Exchanges:
        """Return those of the share as ENDED."""
        begun = taken["isn_seen"] != 0
        untold = share.untold_requests(begun, taken["flow_first_ns"], taken["request_first_ns"])
        if untold.any():
            taken = picked(taken, ~untold)
        idle = taken["end"] == ExchangeEnd.IDLE_TIMEOUT
        given_up_ns = taken["ended_ns"] + np.uint64(self._settings.tcp_idle_seconds * _NS)
        taken["ended_ns"] = np.where(idle, np.minimum(given_up_ns, np.uint64(now_unix_ns)), taken["ended_ns"])
        return self._with_set_up(taken)

    def _with_set_up(self, taken: Exchanges) -> Exchanges:
        """Return exchanges as ENDED: the first of each connection with what its flow says of how it was set up."""
        ended = as_ended(taken)
        is_first = np.where(taken["is_stream"] != 0, taken["stream_ended"] & STREAM_IS_FIRST, taken["number"] == 0)
        rows = np.flatnonzero((is_first != 0) & (taken["role"] == _CLIENT))
        if len(rows):
            flow_ids = taken["flow_id"][rows]
            slots, met = taken["slot"][rows], taken["slot"][rows] == MET
            slots[met] = self._host.places_of(flow_ids[met])
            flows = self._host.rows(slots)
            same = flows["id"] == flow_ids
            for name in OF_CONNECTION:
                ended[name][rows] = np.where(same, flows[name], 0)
        return ended

    def _end(self, now_ns: int, *, final: bool) -> Exchanges:
        """End those that are over; return all that were open."""
        exchanges = self._host.open_exchanges()
        if not len(exchanges):
            return exchanges
        flows = self._host.rows(exchanges["slot"])
        same = flows["id"] == exchanges["flow_id"]
        outcome = np.where(same, flows["outcome"], np.uint8(Outcome.UNKNOWN))
        heard_ns = np.maximum(exchanges["request_last_ns"], exchanges["response_last_ns"])
        last_ns = np.where(same, flows["last_ns"], heard_ns).astype(np.uint64)
        gone = ~same | (flows["state"] != State.LIVE)
        said_ns = exchanges["ended_ns"]
        closed = (outcome >= Outcome.REFUSED) | (said_ns != 0)
        leaving = closed & (gone | _passed(last_ns, now_ns, self._settings.linger_seconds) | final)
        answered = exchanges["response_first_ns"] != 0
        lasting = answered & _passed(exchanges["request_first_ns"], now_ns, self._settings.active_interval_seconds)
        paused = answered & _passed(exchanges["response_last_ns"], now_ns, self._settings.exchange_pause_seconds)

        end = exchanges["end"]
        end[:] = ExchangeEnd.SHUTDOWN if final else ExchangeEnd.NONE
        end[lasting] = ExchangeEnd.ACTIVE_TIMEOUT
        end[paused | gone] = ExchangeEnd.IDLE_TIMEOUT
        end[leaving] = ExchangeEnd.CLOSED
        end[leaving & same & cut_short(flows)] = ExchangeEnd.RESET
        # Where nobody has said anything since.
        end[answered & (exchanges["status"] == _SWITCHING) & ~np.isin(end, (ExchangeEnd.NONE, ExchangeEnd.RESET))] = (
            ExchangeEnd.SWITCHED
        )
        at_end_ns = np.where(said_ns != 0, said_ns, last_ns)
        idle = end == ExchangeEnd.IDLE_TIMEOUT
        exchanges["ended_ns"] = np.where(leaving, at_end_ns, np.where(idle, last_ns, np.uint64(now_ns)))
        self._host.end_exchanges(exchanges[end != ExchangeEnd.NONE])
        return exchanges


def _passed(since_ns: Array, now_ns: int, seconds: float) -> Array:
    """Where so much time has passed since a moment."""
    passed: Array = now_ns - since_ns.astype(np.int64) >= int(seconds * _NS)
    return passed


def exchange_columns(exchanges: Exchanges, observer: Observer) -> dict[str, Array]:
    """Return the columns of ended exchanges, on the clock that they have."""
    count = len(exchanges)
    answered = exchanges["response_first_ns"] != 0
    reset = is_broken_off(exchanges["end"])
    last = np.where(answered, exchanges["response_last_ns"], np.uint64(0))
    end = np.where(answered & ~reset, last, exchanges["ended_ns"])
    end = np.maximum(end, exchanges["request_last_ns"])
    # A part has no request and no response: so it has no phases either.
    is_part, is_clients = exchanges["is_stream"] == PART, exchanges["role"] == _CLIENT
    client, server = exchanges["client_zero_windows"], exchanges["server_zero_windows"]
    filled: dict[str, Array] = {name: exchanges[name] for name in _AS_THEY_ARE}
    filled |= {name: exchanges[member] for name, member in _TIMES.items()}
    filled |= {
        "record": exchanges["number"] % np.uint32(FIRST_EXCHANGE) + np.uint32(FIRST_EXCHANGE),
        "reason": np.full(count, Reason.EXCHANGE, np.uint8),
        "observer": np.full(count, observer, np.uint8),
        "transport": np.where(exchanges["transport"] != 0, exchanges["transport"], np.uint8(_TCP)),
        "local_container": np.full(count, NO_INDEX),
        "exchange_end": exchanges["end"],
        "exchange_shared": exchanges["is_stream"],
        "exchange_matched": _MATCHED[(exchanges["slot"] == MET).view(np.uint8)],
        "exchange_series": exchanges["series"],
        "exchange_series_wait_ns": exchanges["series_wait_ns"],
        "http_method": exchanges["method"],
        "http_status": np.where(answered, exchanges["status"], np.uint16(0)),
        "grpc_status": exchanges["grpc_status"],
        "request_first_unix_ns": np.where(is_part, end, exchanges["request_first_ns"]),
        "request_last_unix_ns": np.where(is_part, end, exchanges["request_last_ns"]),
        "response_last_unix_ns": last,
        "end_unix_ns": end,
        "tx_zero_windows": np.where(is_clients, client, server),
        "rx_zero_windows": np.where(is_clients, server, client),
        "smoothed_rtt_ns": exchanges["srtt_ns"],
        "response_time_max_ns": exchanges["silence_ns"],
    }
    return {name: np.ascontiguousarray(column, _DTYPES[name]) for name, column in filled.items()}
