"""Spans of Wirespan's, OTLP/JSON, as the records they were made of: as far as people look at records.

The way back of docs/attributes.md. A row has what the span says and no more, but for `epoch` and `sequence`, which no span has.
Local is the end that the span's resource is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from proto.columns import DNS_CODES, FIRST_EXCHANGE, NO_ANSWER, OTHER_CODE, UNANSWERED
from proto.dns import RESPONSE_CODES, record_type_number, response_code_number
from proto.errors import DecodeError
from proto.verdicts.names import MEASURE_ATTRIBUTES, Verdict, VerdictMeasure

_DIRECTIONS: Final = {"forward": "client", "reverse": "server", "unknown": "unknown"}
_OBSERVERS: Final = {"capture": "capture"}
_BOTH_WAYS: Final = {
    "bytes.delta": "bytes",
    "bytes.total": "bytes_total",
    "packets.delta": "packets",
    "packets.total": "packets_total",
    "payload.bytes.delta": "payload_bytes",
    "tcp.flags.bits": "tcp_flags",
    "tcp.retransmits": "retransmits",
    "tcp.retransmit_bytes": "retransmit_bytes",
    "tcp.spurious_retransmits": "spurious_retransmits",
    "tcp.out_of_order": "out_of_order",
    "tcp.duplicate_acks": "duplicate_acks",
    "tcp.zero_window": "zero_windows",
    "tcp.window_full": "window_full",
    "tcp.keep_alives": "keep_alives",
    "tcp.zero_window_probes": "zero_window_probes",
    "tcp.fins": "fins",
    "tcp.resets": "resets",
    "tcp.rtt.count": "rtt_samples",
    "tcp.rtt.min": "rtt_min_ns",
    "tcp.rtt.max": "rtt_max_ns",
    "ip.ttl": "hop_limit",
    "ip.ecn.ce": "ecn_ce",
    "ip.fragments.count": "fragments",
    "ip.fragments.overlapping": "overlapping_fragments",
    "ip.datagrams.incomplete": "incomplete_datagrams",
    "copies.count": "copies",
}
"""Attributes after `flow.` and `flow.reverse.`, and their columns after `tx_` and `rx_`."""
_COLUMNS: Final = {
    "flow.record": "record",
    "flow.end_reason": "reason",
    "flow.connection.outcome": "outcome",
    "flow.direction_source": "role_source",
    "flow.request.unanswered": "request_waits",
    "flow.question.count": "questions",
    "flow.question.repeats": "question_repeats",
    "flow.tcp.syn_repeats": "syn_repeats",
    "flow.tcp.syn_ack_repeats": "syn_ack_repeats",
    "flow.response.count": "responses",
    "flow.response.time_sum": "response_time_sum_ns",
    "flow.response.time_max": "response_time_max_ns",
    "flow.response.time_histogram": "response_time_histogram",
    "flow.request.transfer_time": "request_transfer_sum_ns",
    "flow.request.transfer_time_max": "request_transfer_max_ns",
    "flow.response.transfer_time": "response_transfer_sum_ns",
    "flow.response.transfer_time_max": "response_transfer_max_ns",
    "flow.icmp.errors": "icmp_errors",
    "flow.icmp.error.type.id": "icmp_error_type",
    "flow.icmp.error.code.id": "icmp_error_code",
    "flow.translated": "translated",
    "flow.icmp.type.id": "icmp_type",
    "flow.icmp.code.id": "icmp_code",
    "flow.tcp.socket.rtt.smoothed": "smoothed_rtt_ns",
    "flow.tcp.socket.rtt.min": "min_rtt_ns",
    "flow.tcp.socket.retransmits": "socket_retransmits",
    "flow.tcp.socket.lost": "lost_segments",
    "flow.tcp.socket.congestion_window": "congestion_window",
    "tunnel.type": "tunnel",
    "tunnel.depth": "tunnel_depth",
    "destination.nat.ip": "remote_nat_address",
    "destination.nat.port": "remote_nat_port",
}
_EXCHANGE_COLUMNS: Final = {
    "flow.request.bytes": "request_bytes",
    "flow.response.bytes": "response_bytes",
    "flow.request.retransmits": "request_retransmits",
    "flow.response.retransmits": "response_retransmits",
}
_QUESTION = "dns question"
_FIRST: Final = ("dns.question.name", "dns.question.type", "dns.response_code", "flow.dns.answer.count")
_SLOWEST: Final = tuple(f"flow.dns.slowest.{name}" for name in ("name", "type", "response_code", "answer.count"))
_CODES: Final = {f"flow.dns.responses.{RESPONSE_CODES[code].lower()}": code for code in range(OTHER_CODE)} | {
    "flow.dns.responses.other": OTHER_CODE,
    "flow.dns.unanswered": UNANSWERED,
}
_SINCE_SYN: Final = {"flow.tcp.handshake.latency": "syn_ack_unix_ns", "flow.tcp.connect.time": "handshake_ack_unix_ns"}
_VERDICTS: Final = frozenset(verdict.name.lower() for verdict in Verdict)
_MEASURES: Final = {name: VerdictMeasure(number).name.lower() for number, name in MEASURE_ATTRIBUTES.items()}
_RESET: Final = "connection_reset"
_NOT_OF_ENTITY: Final = frozenset({"address", "port"})
_SERVICE: Final = "k8s.service."


def records(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row as `proto.rows` makes them for every span of a flow, an exchange or a question in an
    ExportTraceServiceRequest.

    An exchange's phases are in its own span, so theirs are passed over, as are those of others. Raises DecodeError for what is
    not OTLP/JSON.
    """
    try:
        for resource_spans in request["resourceSpans"]:
            resource = _attributes(resource_spans.get("resource", {}))
            for scope_spans in resource_spans.get("scopeSpans", ()):
                for span in scope_spans.get("spans", ()):
                    attributes = _attributes(span)
                    if "flow.direction" not in attributes or "source.address" not in attributes:
                        continue
                    if "flow.record" in attributes:
                        yield _record(span, attributes, resource) | _of_flow(span, attributes)
                    elif "flow.exchange.end_reason" in attributes:
                        yield _record(span, attributes, resource) | _of_exchange(span, attributes)
                    elif span.get("name") == _QUESTION:
                        yield _record(span, attributes, resource) | _of_question(span, attributes, resource)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DecodeError(f"no OTLP/JSON: {error!r}") from error


def _record(span: Mapping[str, Any], attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> dict[str, Any]:
    """What flows and exchanges have in common: who, when, whose socket."""
    role = _role(attributes)
    row: dict[str, Any] = {
        "node": str(resource.get("host.name", "")),
        # A trace is a connection, and its spans of one side are of one flow.
        "epoch": role,
        "sequence": 0,
        "observer": _OBSERVERS.get(attributes.get("flow.observer", ""), "socket"),
        "role": role,
        "transport": _transport(attributes["network.transport"]),
        "start_unix_ns": int(span["startTimeUnixNano"]),
        "end_unix_ns": int(span["endTimeUnixNano"]),
    }
    for side, end in zip(("local", "remote"), _ends(role), strict=True):
        row[f"{side}_address"] = attributes[f"{end}.address"]
        if (port := attributes.get(f"{end}.port", attributes.get("flow.icmp.echo.id"))) is not None:
            row[f"{side}_port"] = port
        if (resolution := attributes.get(f"flow.{end}.resolution")) is not None:
            row[f"{side}_resolution"] = resolution
        row[f"{side}_entity"], row[f"{side}_service"] = _entities(attributes, f"{end}.")
    if (verdict := attributes.get("flow.verdict")) in _VERDICTS:
        row["verdict"] = verdict
        row["verdict_measure"] = _MEASURES.get(attributes.get("flow.verdict.measure", ""), "none")
    if (name := attributes.get("server.address")) is not None:
        row["remote_name"] = name
    return row


def _of_flow(span: Mapping[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    start = int(span["startTimeUnixNano"])
    row = {"flow_id": int(span["traceId"][16:], 16), "flow_start_unix_ns": attributes.get("flow.start", start)}
    for attribute, column in _SINCE_SYN.items():
        if (elapsed_ns := attributes.get(attribute)) is not None:
            row |= {"syn_unix_ns": start, column: start + elapsed_ns}
    if (error := attributes.get("error.type")) is not None:
        row["cut_short"] = int(error == _RESET)
    if (closed_by := attributes.get("flow.tcp.closed_by")) is not None:
        row["closed_by"] = dict(zip(_ends(_role(attributes)), ("local", "remote"), strict=True))[closed_by]
    forward, reverse = ("rx", "tx") if attributes["flow.direction"] == "reverse" else ("tx", "rx")
    for way, prefix in ((forward, "flow."), (reverse, "flow.reverse.")):
        for name, column in _BOTH_WAYS.items():
            if (value := attributes.get(prefix + name)) is not None:
                row[f"{way}_{column}"] = value
        dscp, ecn = attributes.get(f"{prefix}ip.dscp.id"), attributes.get(f"{prefix}ip.ecn.id")
        if dscp is not None or ecn is not None:
            row[f"{way}_traffic_class"] = (dscp or 0) << 2 | (ecn or 0)
    row |= {column: attributes[name] for name, column in _COLUMNS.items() if name in attributes}
    return row | _lookups(attributes)


def _lookups(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The questions that a flow's span tells. Where it says of none how often it was, of the first."""
    if not any(name in attributes for name in (*_FIRST, *_CODES)):
        return {}
    row = _told(attributes, "first", _FIRST, "flow.dns.")
    slowest = _told(attributes, "slowest", _SLOWEST, "flow.dns.slowest.") if any(map(attributes.get, _SLOWEST)) else {}
    same = {name.replace("first", "slowest"): value for name, value in row.items()}
    code = row["dns_first_code"]
    counted = {place: attributes[name] for name, place in _CODES.items() if name in attributes}
    counted = counted or {UNANSWERED if code == NO_ANSWER else min(code, OTHER_CODE): 1}
    return row | (slowest or same) | {"dns_codes": [counted.get(place, 0) for place in range(DNS_CODES)]}


def _told(attributes: Mapping[str, Any], which: str, names: tuple[str, ...], prefix: str) -> dict[str, Any]:
    """What is told of one question; where no code is, it was never answered."""
    name, kind, code, answers = map(attributes.get, names)
    said = {
        "name": name,
        "type": record_type_number(kind) if kind else None,
        "code": response_code_number(code) if code else NO_ANSWER,
        "answers": answers,
        "time_ns": attributes.get(f"{prefix}time"),
        "repeats": attributes.get(f"{prefix}repeats"),
    }
    return {f"dns_{which}_{what}": value for what, value in said.items() if value is not None}


def _of_question(span: Mapping[str, Any], attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> dict[str, Any]:
    """One question of a flow, in the flow's trace. Only what was seen at a socket has a host."""
    row: dict[str, Any] = {"flow_id": int(span["traceId"][16:], 16), "record": FIRST_EXCHANGE, "reason": "exchange"}
    row["observer"] = "socket" if "host.name" in resource else "capture"
    return row | _told(attributes, "first", _FIRST, "flow.dns.")


def _of_exchange(span: Mapping[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """One request of a connection; the span has a link to that."""
    asked = int(span["startTimeUnixNano"]) + attributes.get("flow.request.transfer_time", 0)
    row = {
        "flow_id": int(span["links"][0]["traceId"][16:], 16),
        "record": FIRST_EXCHANGE,
        "reason": "exchange",
        "trace_id": span["traceId"],
        "parent_span_id": span["parentSpanId"],
        "trace_flags": 1,
        "exchange_end": attributes["flow.exchange.end_reason"],
        "request_first_unix_ns": int(span["startTimeUnixNano"]),
        "request_last_unix_ns": asked,
    }
    if (wait_ns := attributes.get("flow.response.time")) is not None:
        answered = asked + wait_ns
        row["response_first_unix_ns"] = answered
        row["response_last_unix_ns"] = answered + attributes.get("flow.response.transfer_time", 0)
    return row | {column: attributes[name] for name, column in _EXCHANGE_COLUMNS.items() if name in attributes}


def _role(attributes: Mapping[str, Any]) -> str:
    return _DIRECTIONS[attributes["flow.direction"]]


def _ends(role: str) -> tuple[str, str]:
    """What the local and the remote end are."""
    return ("destination", "source") if role == "server" else ("source", "destination")


def _entities(attributes: Mapping[str, Any], prefix: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the end's workload and its Service."""
    of_end = {
        name.removeprefix(prefix): value
        for name, value in attributes.items()
        if name.startswith(prefix) and name.removeprefix(prefix) not in _NOT_OF_ENTITY
    }
    service = {name: of_end.pop(name) for name in list(of_end) if name.startswith(_SERVICE)}
    if service and (namespace := of_end.get("k8s.namespace.name")):
        service["k8s.namespace.name"] = namespace
    only_service = service and set(of_end) <= {"k8s.namespace.name", "service.name", "service.namespace"}
    workload = None if only_service or not of_end else {"type": _type(of_end), **of_end}
    return workload, {"type": "k8s.service", **service} if service else None


def _type(attributes: Mapping[str, Any]) -> str:
    return next((kind for kind in ("k8s.pod", "k8s.node", "host") if f"{kind}.name" in attributes), "service")


def _transport(name: str) -> str | int:
    return int(name.rpartition("_")[2]) if name.startswith("ip_protocol_") else name


def _attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    return {attribute["key"]: _value(attribute["value"]) for attribute in holder.get("attributes", ())}


def _value(value: Mapping[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        return [_value(each) for each in content.get("values", ())]
    return int(content) if kind == "intValue" else content
