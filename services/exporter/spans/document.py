"""docs/attributes.md, made from the one table."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from services.exporter.spans.attributes import (
    DNS,
    END,
    FILE,
    INTEGERS,
    NAT,
    PEER,
    RESOURCE,
    TLS,
    TUNNEL,
    VERDICT,
    WORDS,
    Attribute,
    Integer,
    Integers,
)
from services.exporter.spans.exchanges.attributes import (
    EXCHANGE_INTEGERS,
    EXCHANGE_WORDS,
    PART_INTEGERS,
    ExchangeIntegers,
)
from services.exporter.spans.names.question_spans import QUESTION_INTEGERS, QUESTION_WORDS
from services.exporter.spans.profiles import least_profile
from services.exporter.spans.setup.attributes import STEP_INTEGERS

_INTRODUCTION: Final = """\
# Attributes

Every span that Wirespan exports is one record of one flow. `source.*` is the end that began the connection, `destination.*` the
end that answered it, whoever saw the packets; what has no `reverse` in its name counts from source to destination. The resource
is the workload at the end whose span it is. Times are nanoseconds, as integers.

The conventions: OpenTelemetry's [semantic conventions](https://opentelemetry.io/docs/specs/semconv/) 1.44.0; the `flow.*` and
`source.k8s.*` vocabulary that Mermin published; Wirespan's own. `client.*` and `server.*` are left out where they would say
again what `source.*` and `destination.*` say. So is a zero or an unknown where absence says the same.

Not all of them have to be sent. `WIRESPAN_EXPORTER_ATTRIBUTES` is `full` (every attribute), `standard` (the default: without
what can be worked out from the rest, ids of objects and histograms) or `lean` (a map of services with rates, errors and
durations, and why a connection failed or was slow). The last column is the smallest profile that carries the attribute;
resources are whole in each. [performance.md](performance.md) has the bytes.

## The span

- **Name**: the transport, and the destination's `service.name` where it is known: `tcp redis`, `udp kube-dns`, `tcp`. It names
  a class of connections, never an address or a port, for backends make a series of each service and span name.
- **Kind**: a flow's first record is CLIENT at the source's end and SERVER at the destination's; its later records, and flows
  whose beginning nobody saw, are INTERNAL.
- **Parent**: a later record's is its flow's first record; after 256 records a flow goes on in another trace
  ([correlation.md](correlation.md#connections-that-live-long)), whose first record is the parent of the others. A server's
  first record's is the client's span of the connection, where the handshake was seen at a socket and the client is a pod or
  node of the cluster, or on the same host.
- **Status**: ERROR, with `error.type`, where the connection was refused, was never answered or was reset, a DNS question was
  answered by SERVFAIL or not at all, or an alert ended a TLS handshake; else unset.
- **Ids** are derived from the record and the cluster's name, never drawn by lot: a span sent again overwrites itself.
- **Point of view**: a socket's own end. A capture file stands at neither end: its spans are told by the end that is a workload
  of the cluster; where both are or neither is, by the source.

## The spans of an exchange

A request that carries a sampled W3C `traceparent`, and its response, are spans of the application's trace besides
([correlation.md](correlation.md)): `exchange at client`, `exchange at server` or `exchange at capture`, after whose socket saw
it, a child of the span that made the request, with a link to the flow's span; and its children `request transfer`, `server
wait` and `response transfer`, those of them that took time. All are INTERNAL, so that no service graph counts the request
twice. An exchange has the attributes of both ends as the flow's spans have them, `server.address`, the verdict, and those under
*Of an exchange*; its phases have `flow.observer` alone.

Where several requests share a connection and cannot be told apart (HTTP/2 in TLS), a span of an application has as its child
what [its connection did in that time](correlation.md#connections-that-several-requests-share): `connection at client` or
`connection at server`, from the first to the last payload of that time, with `flow.exchange.shared` and the attributes under
*Of a connection in the time of a span*. It has no phases: of none of the requests is anything said.

The first exchange of a connection has its set-up beside it, at the client: `connect`, `tls handshake` and `dns lookup`,
children of the same span as the exchange, those that are known of a connection that the request waited for. A lookup also has
`dns.question.name`, `dns.question.type`, `dns.response_code` and `flow.dns.answer.count`.

## The span of a question

A DNS question that was never answered, was answered by another code than NOERROR and NXDOMAIN, or took as long as
`WIRESPAN_CAPTURE_SLOW_QUESTION_SECONDS` (0.1) has a span of its own, `dns question`, besides that of its flow:
`WIRESPAN_CAPTURE_QUESTION_SPANS` is `failed_or_slow` (the default), `all` or `off`. It lasts from when the question was first
asked to its answer, or to when it was given up: 10 s later, or when its flow ended or its number asked something else. It is
INTERNAL, a child of its flow's first span of that trace; its status is ERROR for SERVFAIL and for no answer. It has the
attributes of both ends, those of name resolution but for `flow.dns.slowest.*`, and those under *Of a question*; it has no
`flow.observer`, so that what counts flows by it does not count the question twice. A record of a flow has 16 of them at the
most; `wirespan_capture_pieces_total{reason="question_without_record"}` counts the others, which the flow's span counts by code.
"""


def markdown() -> str:
    """Return docs/attributes.md."""
    ends = [replace(row, name=row.name.format(end="source")) for row in END]
    parts = [_INTRODUCTION]
    for title, rows in (
        ("Of the flow", WORDS),
        ("Counts and times", [*_integers(INTEGERS)]),
        ("Of the ends: `source`, and the same for `destination`", ends),
        ("The verdict", VERDICT),
        ("Of name resolution", DNS),
        ("Of TLS", TLS),
        ("From the resource's point of view", PEER),
        ("Of the tunnel", TUNNEL),
        ("Of network address translation", NAT),
        ("Of the capture file", FILE),
        ("Of an exchange", [*EXCHANGE_WORDS, *_integers(EXCHANGE_INTEGERS)]),
        ("Of a connection in the time of a span", [*_integers(PART_INTEGERS)]),
        ("Of a step of a connection's set-up", [*_integers(itertools.chain(*STEP_INTEGERS.values()))]),
        ("Of a question", [*QUESTION_WORDS, *_integers(QUESTION_INTEGERS)]),
        ("The resource", RESOURCE),
    ):
        parts += [f"\n## {title}\n\n", *_table(rows, whole=rows is RESOURCE)]
    return "".join(parts)


def _integers(blocks: Iterable[Integers | ExchangeIntegers]) -> Iterator[Attribute]:
    for block in blocks:
        for row in block.attributes:
            yield Attribute(row.name, row.convention, row.meaning, block.presence, _type(row), row.unit)


def _type(attribute: Integer) -> str:
    return "int[]" if attribute.name.endswith("histogram") else "int"


def _table(rows: Sequence[Attribute], *, whole: bool) -> Iterator[str]:
    yield "| attribute | type | unit | meaning | present | convention | profile |\n|---|---|---|---|---|---|---|\n"
    for row in rows:
        profile = "lean" if whole else _profile(row.name)
        cells = (f"`{row.name}`", row.type, row.unit, row.meaning, row.presence, row.convention, profile)
        yield f"| {' | '.join(cells)} |\n"


def _profile(name: str) -> str:
    """The smallest profile that carries an attribute; a row that stands for several names has an entry for each profile."""
    if not re.fullmatch(r"[a-z0-9_.]+", name):
        base, *others = name.replace("<kind>", "deployment").replace("*", "x").split(", ")
        names = [base, *(base.rpartition(".")[0] + other for other in others)]
        return ", ".join(dict.fromkeys(least_profile(one) for one in names))
    return least_profile(name)
