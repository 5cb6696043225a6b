"""Every metric of flows: the one table. docs/metrics.md is made from it.

Names are those of the spans' attributes where the measure is the same. OpenTelemetry's conventions have no metrics of flows as
yet; names of attributes, units and the mark of what exceeds the bound (`otel.metric.overflow`) are theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from proto.columns import DNS_CODES, RESPONSE_TIME_BUCKETS, UNANSWERED, Outcome
from proto.dns import RESPONSE_CODES
from proto.verdicts.names import Verdict

OUTCOMES: Final = 8
"""Values that an outcome may have, those of later versions cut off."""
VERDICTS: Final = 16

CONNECT_SCALE: Final = 2
CONNECT_FIRST: Final = -20 << CONNECT_SCALE
CONNECT_BUCKETS: Final = 28 << CONNECT_SCALE
"""From 2**-20 s (1 us) to 2**8 s, four buckets for each doubling; the ends are open."""
RESPONSE_SCALE: Final = 0
RESPONSE_FIRST: Final = -16
"""Bucket i of `response_time_histogram`, [16 us * 2**i, 16 us * 2**(i+1)), counts as (2**(i-16) s, 2**(i-15) s]: its bounds in
seconds are 4.6 % below what was counted."""

_NO_LABELS: Final[Mapping[int, Mapping[str, str]]] = {0: {}}


@dataclass(frozen=True, slots=True)
class Counted:
    """A sum that only grows."""

    name: str
    unit: str
    meaning: str
    cells: int = 1
    """Numbers of each pair: one for each set of `labels`."""
    labels: Mapping[int, Mapping[str, str]] = field(default_factory=lambda: _NO_LABELS)
    """What tells a cell from the others of its pair; cells without labels of their own are not shown."""
    label_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Timed:
    """An exponential histogram, in seconds."""

    name: str
    meaning: str
    scale: int
    first: int
    """Index of the first bucket: bucket i is (2**((first + i) / 2**scale) s, 2**((first + i + 1) / 2**scale) s]."""
    buckets: int

    def bounds(self) -> list[float]:
        """Return the upper bound of each bucket in seconds."""
        return [2.0 ** ((self.first + at + 1) / 2**self.scale) for at in range(self.buckets)]


def _outcome(number: int) -> str:
    return Outcome(number).name.lower()


def _verdict(number: int) -> str:
    return Verdict(number).name.lower()


def connection_cell(outcome: int, verdict: int) -> int:
    """Return which cell of `flow.connections` counts an outcome with a verdict."""
    return outcome * VERDICTS + verdict


_DNS_LABELS: Final = {code: {"dns.response_code": RESPONSE_CODES[code]} for code in range(DNS_CODES - 2)} | {
    UNANSWERED - 1: {"dns.response_code": "other"},
    UNANSWERED: {"dns.response_code": "none"},
}
_VERDICT_LABELS: Final = {int(verdict): {"flow.verdict": _verdict(verdict)} for verdict in Verdict}
_CONNECTION_LABELS: Final = {
    connection_cell(outcome, verdict): {"flow.connection.outcome": _outcome(outcome), "flow.verdict": _verdict(verdict)}
    for outcome in Outcome
    for verdict in Verdict
}

BYTES: Final = Counted("flow.bytes", "By", "IP bytes from source to destination")
REVERSE_BYTES: Final = Counted("flow.reverse.bytes", "By", "IP bytes from destination to source")
PACKETS: Final = Counted("flow.packets", "{packet}", "packets from source to destination")
REVERSE_PACKETS: Final = Counted("flow.reverse.packets", "{packet}", "packets from destination to source")
RETRANSMITS: Final = Counted("flow.tcp.retransmits", "{packet}", "segments from source to destination that were sent again")
REVERSE_RETRANSMITS: Final = Counted(
    "flow.reverse.tcp.retransmits", "{packet}", "segments from destination to source that were sent again"
)
CROSS_ZONE: Final = Counted("flow.cross_zone.bytes", "By", "IP bytes, both ways, between nodes of two availability zones")
EGRESS: Final = Counted("flow.egress.bytes", "By", "IP bytes that left for outside the cluster, whoever opened the connection")
RECORDS: Final = Counted("flow.records", "{record}", "records, by their verdict", VERDICTS, _VERDICT_LABELS, ("flow.verdict",))
CONNECTIONS: Final = Counted(
    "flow.connections",
    "{connection}",
    "TCP connections that are over, by what became of them and their last record's verdict",
    OUTCOMES * VERDICTS,
    _CONNECTION_LABELS,
    ("flow.connection.outcome", "flow.verdict"),
)
DNS: Final = Counted(
    "flow.dns.questions",
    "{question}",
    "DNS questions, by the code of their answer; `none`: never answered",
    DNS_CODES,
    _DNS_LABELS,
    ("dns.response_code",),
)
RESPONSE_TIME: Final = Timed(
    "flow.response.time",
    "response times: a request's last byte to its response's first",
    RESPONSE_SCALE,
    RESPONSE_FIRST,
    RESPONSE_TIME_BUCKETS,
)
CONNECT_TIME: Final = Timed(
    "flow.tcp.connect.time",
    "first SYN to the ACK that completes the handshake",
    CONNECT_SCALE,
    CONNECT_FIRST,
    CONNECT_BUCKETS,
)

COUNTED: Final = (
    BYTES, REVERSE_BYTES, PACKETS, REVERSE_PACKETS, RETRANSMITS, REVERSE_RETRANSMITS, CROSS_ZONE, EGRESS, RECORDS, CONNECTIONS,
    DNS,
)  # fmt: skip
TIMED: Final = (RESPONSE_TIME, CONNECT_TIME)

PAIR_LABELS: Final = (
    "source.service.namespace", "source.service.name", "destination.service.namespace", "destination.service.name",
    "network.transport", "flow.observer",
)  # fmt: skip
"""Attributes that all of them have."""
OVERFLOW: Final = "otel.metric.overflow"
"""The attribute, and the only one, of the series that counts what is beyond the bound of pairs."""
