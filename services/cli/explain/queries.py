"""How to find more of the same: in a backend of traces, in OpenSearch, on the bus."""

from __future__ import annotations

import json
import shlex
from typing import Any

from proto.verdicts.names import MEASURE_ATTRIBUTES, Verdict, VerdictMeasure
from services.cli.explain.connections import Connection
from services.cli.program import program


def queries(connection: Connection, verdict: Verdict, measure: VerdictMeasure) -> dict[str, str]:
    """Return the queries, by where they are asked. What only both ends together say, no span has: the client's is asked for."""
    if verdict in {Verdict.OK, Verdict.UNKNOWN}:
        return {}
    teller = connection.teller(verdict, measure) or connection.told
    row, view = teller.row, teller.view
    end = "remote" if view.local_is_source else "local"
    entity: dict[str, Any] = row.get(f"{end}_entity") or {}
    terms: dict[str, str | int] = {
        "flow.verdict": teller.verdict.name.lower(),
        "flow.verdict.measure": MEASURE_ATTRIBUTES.get(teller.measure, ""),
    }
    tap = ["--verdict", teller.verdict.name.lower()]
    if name := entity.get("service.name"):
        terms["destination.service.name"] = name
        tap += ["--to-service", str(name)]
    else:
        terms["destination.address"] = row[f"{end}_address"]
        tap += ["--to-ip", row[f"{end}_address"]]
    if view.destination.port:
        terms["destination.port"] = view.destination.port
        tap += ["--to-port", str(view.destination.port)]
    return {
        "TraceQL": "{ " + " && ".join(f"span.{name} = {json.dumps(value)}" for name, value in terms.items()) + " }",
        "OpenSearch": " AND ".join(
            f"span.attributes.{name.replace('.', '@')}:{json.dumps(value)}" for name, value in terms.items()
        ),
        "tap": shlex.join([program(), "tap", "--since", "10m", *tap]),
    }
