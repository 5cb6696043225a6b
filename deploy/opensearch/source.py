"""The index template and the saved queries for OpenSearch, for documents as Data Prepper writes them."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from proto.verdicts.names import MEANINGS, Verdict
from services.exporter.spans.attributes import INTEGERS
from services.exporter.spans.exchanges.attributes import EXCHANGE_INTEGERS

_KEYWORD: Final = {"type": "keyword", "ignore_above": 1024}
_TIME: Final = {"type": "date_nanos"}
_LONG: Final = {"type": "long"}


class SavedQuery(NamedTuple):
    """A query of docs/diagnosis.md in Lucene's syntax, which OpenSearch Dashboards has as a saved query."""

    name: str
    about: str
    query: str


def field(attribute: str) -> str:
    """Return the field of an attribute: Data Prepper has no dots in it."""
    return f"span.attributes.{attribute.replace('.', '@')}"


def index_template() -> dict[str, Any]:
    """Return the index template. Data Prepper's own makes keywords of numbers, and those are compared as text."""
    numbers = {field(attribute.name): _LONG for block in (*INTEGERS, *EXCHANGE_INTEGERS) for attribute in block.attributes}
    texts = dict.fromkeys(("traceId", "spanId", "parentSpanId", "name", "kind", "serviceName", "traceGroup"), _KEYWORD)
    attributes = [
        {f"{whose}_attributes": {"path_match": f"{whose}.attributes.*", "match_mapping_type": "string", "mapping": _KEYWORD}}
        for whose in ("span", "resource")
    ]
    return {
        "index_patterns": ["otel-v1-apm-span-*"],
        "priority": 200,
        "template": {
            "settings": {"mapping.total_fields.limit": 2000},
            "mappings": {
                "date_detection": False,
                "dynamic_templates": attributes,
                "properties": {
                    **texts,
                    "startTime": _TIME,
                    "endTime": _TIME,
                    "durationInNanos": _LONG,
                    "status": {"properties": {"code": {"type": "integer"}, "message": _KEYWORD}},
                    **dict(sorted(numbers.items())),
                },
            },
        },
    }


def _term(attribute: str, value: str) -> str:
    return f'{field(attribute)}:"{value}"'


def _above(attribute: str, bound: int) -> str:
    return f"{field(attribute)}:>{bound}"


def _not_told_by(observer: str) -> str:
    return f"NOT {_term('flow.observer', observer)}"


def saved_queries() -> list[SavedQuery]:
    """Return all of them: by verdict, and by symptom where a query needs no arithmetic between two fields."""
    by_verdict = [
        SavedQuery(f"verdict: {verdict.name.lower()}", meaning, _term("flow.verdict", verdict.name.lower()))
        for verdict, meaning in MEANINGS.items()
        if verdict not in {Verdict.OK, Verdict.UNKNOWN}
    ]
    unanswered, repeated = _above("flow.request.unanswered", 0), _above("flow.tcp.retransmits", 1)
    return [
        *by_verdict,
        SavedQuery("refused", "nobody listens", _term("error.type", "connection_refused")),
        SavedQuery("blackholed", "connecting times out", f"{_term('error.type', 'timeout')} AND {_not_told_by('server')}"),
        SavedQuery(
            "full accept queue",
            "connecting times out, the server has a span",
            f"{_term('error.type', 'timeout')} AND {_term('flow.observer', 'server')}",
        ),
        SavedQuery(
            "lost SYNs",
            "connecting takes a second",
            f"{_above('flow.tcp.connect.time', 900_000_000)} AND {_not_told_by('server')}",
        ),
        SavedQuery(
            "slow server", "answers are late", f"{_above('flow.response.time_max', 150_000_000)} AND {_not_told_by('client')}"
        ),
        SavedQuery(
            "slow path",
            "connecting is late",
            f"{_above('flow.tcp.handshake.latency', 50_000_000)} AND {_not_told_by('server')}",
        ),
        SavedQuery("slow reader", "the client does not read", _above("flow.tcp.zero_window", 0)),
        SavedQuery("resets", "which end broke it off: flow.tcp.closed_by", _term("error.type", "connection_reset")),
        SavedQuery(
            "partition",
            "a request without an answer on an open connection",
            f"{unanswered} AND {repeated} AND {_not_told_by('server')} AND {_term('flow.connection.outcome', 'established')}",
        ),
        SavedQuery(
            "names without an answer", "the resolver", f'{_term("network.transport", "udp")} AND {unanswered}'
        ),
    ]  # fmt: skip


def template_text() -> str:
    """The template as a file."""
    return json.dumps(index_template(), indent=2) + "\n"


def queries_text() -> str:
    """The saved queries as OpenSearch Dashboards imports them: an object in each line."""
    return "".join(
        json.dumps(
            {
                "type": "query",
                "id": f"wirespan-{saved.name.replace(':', '').replace(' ', '-').lower()}",
                "attributes": {
                    "title": f"Wirespan: {saved.name}",
                    "description": saved.about,
                    "query": {"query": saved.query, "language": "lucene"},
                },
                "references": [],
            }
        )
        + "\n"
        for saved in saved_queries()
    )
