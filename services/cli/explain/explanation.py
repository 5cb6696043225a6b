"""An explanation: who, what happened, the verdict in a sentence, how that is known, what to look at, and how to find more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from proto.verdicts.advice import ADVICE, Advice
from proto.verdicts.evidence import Evidence, evidence
from proto.verdicts.names import MEANINGS, MEASURE_ATTRIBUTES, Verdict, VerdictMeasure
from services.cli.explain.connections import Connection, Record
from services.cli.explain.queries import RECENTLY, Place, queries
from services.cli.explain.story import Step, story
from services.cli.views import units

DOCUMENT: Final = "docs/diagnosis.md"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is told of one connection."""

    connection: Connection
    verdict: Verdict
    measure: VerdictMeasure
    advice: Advice
    steps: list[Step]
    because: list[str]
    queries: dict[str, str]

    @property
    def began_unix_ns(self) -> int:
        """When what is told began: the request, where it is one, else the connection."""
        told = self.connection.told
        return int(told.row["start_unix_ns" if told.view.exchange else "flow_start_unix_ns"])

    @property
    def head(self) -> str:
        """Who, over what, when."""
        view = self.connection.told.view
        began = self.began_unix_ns
        arrow = "->" if view.directed else "<>"
        lasted = units.duration(max(view.end_unix_ns - began, 0))
        ends = f"{self.connection.source} {arrow} {self.connection.destination}  {view.transport}"
        return f"{ends}, {units.moment(began)}, {lasted}, told by {self.tellers}"

    @property
    def tellers(self) -> str:
        """Whose sockets have told of it."""
        if self.connection.told.view.captured:
            return "a capture file"
        if not self.connection.told.view.directed:
            return "one end"
        ends = [name for name, told in (("client", self.connection.client), ("server", self.connection.server)) if told]
        return "both ends" if len(ends) > 1 else f"the {ends[0]} alone"

    @property
    def next(self) -> str:
        """What to look at."""
        return f"{self.advice.next} ({DOCUMENT}#{self.advice.section})" if self.advice.section else self.advice.next

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        view, row = self.connection.told.view, self.connection.told.row
        return {
            "source": str(self.connection.source),
            "destination": str(self.connection.destination),
            "transport": view.transport,
            "began_unix_ns": self.began_unix_ns,
            "flow_id": row["flow_id"],
            "trace_id": view.exchange.trace_id if view.exchange else None,
            "told_by": self.tellers,
            "story": [{"after_ns": step.after_ns, "what": step.text} for step in self.steps],
            "verdict": self.verdict.name.lower(),
            "measure": MEASURE_ATTRIBUTES.get(self.measure),
            "sentence": self.advice.sentence,
            "because": self.because,
            "next": self.next,
            "queries": self.queries,
        }


def explain(connection: Connection, place: Place = RECENTLY) -> Explanation:
    """Return what there is to say of a connection that was told there."""
    verdict, measure = connection.decided()
    advice = ADVICE.get((verdict, measure)) or Advice(MEANINGS[verdict], "")
    because = list(_because(connection, verdict, measure))
    more = queries(connection, verdict, measure, place)
    return Explanation(connection, verdict, measure, advice, story(connection), because, more)


def _because(connection: Connection, verdict: Verdict, measure: VerdictMeasure) -> Iterator[str]:
    """The numbers against their bounds, at the end whose record has them; where both decide, both ends'."""
    teller = connection.teller(verdict, measure)
    if teller is not None:
        yield from _numbers(teller)
        return
    for end in filter(None, (connection.of_client, connection.of_server)):
        yield from _numbers(end)
    yield "both ends together: " + _compared(connection, measure)


def _compared(connection: Connection, measure: VerdictMeasure) -> str:
    client, server = connection.of_client, connection.of_server
    assert client is not None  # noqa: S101 - both ends have told
    assert server is not None  # noqa: S101
    if measure == VerdictMeasure.SYN_REPEATS:
        seen = server.view.syn_repeats + 1
        return f"the client sent {client.view.syn_repeats + 1} SYNs, the server's socket saw {seen}"
    waits = [end.view.exchange.wait_ns or 0 if end.view.exchange else end.view.response_max_ns for end in (client, server)]
    return f"the client waited {units.duration(waits[0])}, the server took {units.duration(waits[1])}"


def _numbers(record: Record) -> Iterator[str]:
    where = _where(record)
    found = evidence(record.batch)
    compared = [one for one in found if one.name and (one.bound > 1 or MEASURE_ATTRIBUTES.get(record.measure, " ") in one.name)]
    plain = [one.text.replace("`", "") for one in found if not one.name and not one.text.startswith("`network.")]
    if compared:
        yield f"{where}: " + ", ".join(map(_comparison, compared))
    elif plain:
        yield f"{where}: " + ", ".join(plain)
    elif record.measure:
        yield f"{where}: {MEASURE_ATTRIBUTES[record.measure]}"


def _comparison(one: Evidence) -> str:
    def shown(number: int) -> str:
        return units.duration(number) if one.nanoseconds else units.count(number)

    return f"{one.name.replace('`', '')} {shown(one.value)} {one.sign} {shown(one.bound)}"


def _where(record: Record) -> str:
    if record.view.captured:
        return "in the capture"
    if not record.view.directed:
        return "at one end"
    return "at the client" if record.view.local_is_source else "at the server"
