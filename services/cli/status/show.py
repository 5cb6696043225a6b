"""A status as lines for people."""

from __future__ import annotations

from collections.abc import Iterator

from services.cli.status.state import Node, Stage, Status, seconds
from services.cli.views import units
from services.cli.views.printable import printable

_WIDTH = 16
_MOST_NODES = 20


def lines(status: Status, silent_seconds: float) -> Iterator[str]:
    """Whatever there is to say, trouble or not."""
    for name, said in said_of(status, silent_seconds):
        yield f"{name:<{_WIDTH}} {said}".rstrip()


def said_of(status: Status, silent_seconds: float) -> Iterator[tuple[str, str]]:
    """The same by what it is said of; a node's name is indented."""
    for stage in status.stages:
        yield (stage.stream, _stage(stage))
    if status.index_seconds is not None:
        yield ("cluster's index", f"{seconds(status.index_seconds)} old")
    letters = ", ".join(f"{number:,} of {service}" for service, number in status.dead_letters.items())
    yield ("dead letters", letters or "none")
    if not status.looks_back:
        yield ("nodes", "unknown: no copies of the latest batches are kept (WIRESPAN_STREAMS_RECENT_BYTES)")
        return
    silent = [node for node in status.nodes if node.heard_seconds > silent_seconds]
    yield ("nodes", f"{len(status.nodes)} seen, {len(silent)} silent")
    # Those first that somebody may have to look at.
    ordered = sorted(status.nodes, key=lambda node: (-node.heard_seconds * (node in silent), -sum(node.lost_packets.values())))
    for node in ordered[:_MOST_NODES]:
        yield (f"  {printable(node.name)}", _node(node))
    if len(ordered) > _MOST_NODES:
        yield ("", f"and {len(ordered) - _MOST_NODES} more (--json has all)")


def _stage(stage: Stage) -> str:
    if stage.missing:
        return f"{stage.missing} is not there"
    parts = [units.counted(stage.batches, "batch", "batches")]
    if stage.batches:
        parts.append(f"the oldest {seconds(stage.lag_seconds)} old")
    parts.append(f"{stage.full:.0%} full")
    parts.append(f"{stage.service}: {stage.in_hand} in hand" + (f", {stage.redelivered} again" if stage.redelivered else ""))
    if stage.acknowledged_seconds is not None:
        parts.append(f"the last settled {seconds(stage.acknowledged_seconds)} ago")
    return "; ".join(parts)


def _node(node: Node) -> str:
    parts = [f"heard {seconds(node.heard_seconds)} ago"]
    if node.slots:
        parts.append(f"table {node.pressure:.0%} of {node.slots:,}")
    if node.merged_records:
        parts.append(f"{node.merged_records:,} records merged")
    parts += [f"{number:,} packets unattributed ({why.replace('_', ' ')})" for why, number in node.lost_packets.items()]
    return "; ".join(parts)
