"""How to find more of the same: in a backend of traces, in OpenSearch, on the bus."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from proto.verdicts.names import MEASURE_ATTRIBUTES, Verdict, VerdictMeasure
from services.cli.explain.connections import Connection
from services.cli.program import program
from services.cli.run.capture_files import is_capture

Place: TypeAlias = Sequence[Sequence[str]]
"""Where records came from, as the arguments by which `wirespan tap` reads there, a call of it for each."""

RECENTLY: Final[Place] = (("--since", "10m"),)
"""The bus of a `wirespan up`, or one that is set."""
NOWHERE: Final[Place] = ()
"""Where `tap` does not read: a backend of traces."""


def on_bus(nats_url: str | None, kube_context: str | None, kube_namespace: str, since: str) -> Place:
    """Return the place that is a bus, as it was asked for. A URL with a password in it is for nobody to read."""
    chosen: list[str] = []
    if kube_context is not None:
        chosen = ["--kube-context", kube_context, "--kube-namespace", kube_namespace]
    elif nats_url is not None and "@" not in nats_url:
        chosen = ["--nats-url", nats_url]
    return ((*chosen, "--since", since),)


def in_files(given: Sequence[Path], files: Sequence[Path], kube_snapshot: Path | None) -> Place:
    """Return the place that files are, `given` as somebody typed them. Captures are read together, others one by one."""
    kinds = [(str(name), is_capture(file)) for name, file in zip(given, files, strict=True)]
    captures = [name for name, capture in kinds if capture]
    named = [] if kube_snapshot is None else ["--kube-snapshot", str(kube_snapshot)]
    together = [(*captures, *named)] if captures else []
    return [*together, *(("--input-file", name) for name, capture in kinds if not capture)]


def queries(connection: Connection, verdict: Verdict, measure: VerdictMeasure, place: Place = RECENTLY) -> dict[str, str]:
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
    found = {
        "TraceQL": "{ " + " && ".join(f"span.{name} = {json.dumps(value)}" for name, value in terms.items()) + " }",
        "OpenSearch": " AND ".join(
            f"span.attributes.{name.replace('.', '@')}:{json.dumps(value)}" for name, value in terms.items()
        ),
    }
    if place:
        found["tap"] = "; ".join(f"{program()} {shlex.join(['tap', *where, *tap])}" for where in place)
    return found
