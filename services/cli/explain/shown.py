"""An explanation in lines: of `wirespan explain`, and of the screen of `wirespan up`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.text import Text

from proto.verdicts.names import Verdict
from services.cli.explain.connections import Record
from services.cli.explain.explanation import Explanation
from services.cli.views import units
from services.cli.views.printable import printable

_SHORT_ID: Final = 12
"""Characters of a container's id that tools show."""


def lines(each: Explanation) -> Iterator[Text]:
    """Yield them: who, what happened, what was wrong, how that is known, what to look at, how to find more."""
    yield Text(printable(each.head), style="bold")
    for step in each.steps:
        after = "" if step.after_ns is None else f"+{units.duration(step.after_ns)}"
        yield Text(printable(f"  {after:<10} {step.text}"))
    style = "green" if each.verdict == Verdict.OK else "yellow"
    yield Text.assemble("verdict  ", (f"{each.verdict.name.lower()}: {each.advice.sentence}", f"bold {style}"))
    for line in each.because:
        yield Text(printable(f"because  {line}"))
    if each.next:
        yield Text(printable(f"next     {each.next}"))
    for where, query in each.queries.items():
        yield Text(printable(f"more     {where}: {query}"))


def ends(each: Explanation) -> Iterator[Text]:
    """Yield who its two ends are, in full: pod, container, unit, program, machine, address."""
    client, server = each.connection.of_client or each.connection.told, each.connection.of_server or each.connection.told
    yield Text(printable(f"source       {_who(client, at_source=True)}"))
    yield Text(printable(f"destination  {_who(server, at_source=False)}"))


def _who(record: Record, *, at_source: bool) -> str:
    end = "local" if record.view.local_is_source == at_source else "remote"
    entity: Mapping[str, Any] = record.row.get(f"{end}_entity") or {}
    named = {
        "pod": "/".join(str(entity[name]) for name in ("k8s.namespace.name", "k8s.pod.name") if entity.get(name)),
        "container": _container(entity),
        "unit": entity.get("systemd.unit"),
        "program": entity.get("process.executable.name"),
        "on": entity.get("k8s.node.name") or entity.get("host.name"),
    }
    known = [f"{what} {name}" for what, name in named.items() if name and (what != "pod" or entity.get("k8s.pod.name"))]
    return ", ".join([*known, str(record.row[f"{end}_address"])])


def _container(entity: Mapping[str, Any]) -> str:
    """Its name, what it was made of, and its id."""
    name = entity.get("k8s.container.name") or entity.get("container.name") or ""
    image = ":".join(filter(None, [entity.get("container.image.name"), *entity.get("container.image.tags", ())[:1]]))
    more = ", ".join(filter(None, [image, str(entity.get("container.id", ""))[:_SHORT_ID]]))
    return " ".join(filter(None, [name, f"({more})" if more else ""]))
