"""How the pipeline is, and what of it is trouble."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from services.cli.views import units

LAG_SECONDS: Final = 60.0
"""As in the alert WirespanBehind."""
STALLED_SECONDS: Final = 30.0
"""With batches in hand, and none acknowledged for so long, what comes behind does not take them."""
SILENT_SECONDS: Final = 120.0
FULL_SHARE: Final = 0.9
"""Of a stream, and of a flow table."""
_DEAD_SECONDS: Final = 600.0
_NS: Final = 1_000_000_000


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """What the last batch of a node says that is kept."""

    name: str
    heard_seconds: float
    """How long ago its last batch was stored."""
    slots_used: int = 0
    slots: int = 0
    """Of its flow table; 0 where it is a replay."""
    lost_packets: Mapping[str, int] = {}
    """Packets that are in no flow because there was no room or no memory, by why, since its capture began."""
    merged_records: int = 0
    """Refused by a full stream; they merged into later ones."""

    @property
    def pressure(self) -> float:
        """Share of its flow table that is in use."""
        return self.slots_used / self.slots if self.slots else 0.0


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A stream, and the service that consumes it."""

    stream: str
    service: str
    batches: int = 0
    """Stored, and not acknowledged yet."""
    bytes: int = 0
    max_bytes: int = 0
    lag_seconds: float = 0.0
    """Age of the oldest of them."""
    in_hand: int = 0
    redelivered: int = 0
    asking: int = 0
    """Requests for more that wait."""
    acknowledged_seconds: float | None = None
    """How long ago one was acknowledged; None where none ever was."""
    missing: str = ""
    """Which of stream and consumer is not there."""

    @property
    def full(self) -> float:
        """Share of its bound that the stream holds."""
        return self.bytes / self.max_bytes if self.max_bytes > 0 else 0.0

    @property
    def stalled_seconds(self) -> float:
        """For how long there was something to settle, and nothing was."""
        return min(self.lag_seconds, self.lag_seconds if self.acknowledged_seconds is None else self.acknowledged_seconds)


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    server: str
    nodes: Sequence[Node]
    stages: Sequence[Stage]
    dead_letters: Mapping[str, int]
    """Kept, by service."""
    last_dead_seconds: float | None = None
    """How long ago the last one was stored."""
    index_seconds: float | None = None
    """Age of what enrichers know of the cluster; None where no API server is followed for all."""
    backend: str = ""
    """Why the exporter of a `wirespan up` on this machine waits for its backend; empty where it does not, or nobody can say."""
    looks_back: bool = True
    """Whether copies of the latest batches are kept: without them nothing is known of nodes."""


def troubles(status: Status, silent_seconds: float = SILENT_SECONDS) -> list[str]:
    """What somebody should look at, a line each; empty where all is well."""
    return [*_of_stages(status.stages), *_of_nodes(status, silent_seconds), *_of_the_rest(status)]


def _of_stages(stages: Sequence[Stage]) -> Iterator[str]:
    for stage in stages:
        if stage.missing:
            yield f"{stage.missing} is not there: has an {stage.service} ever run?"
            continue
        if not stage.asking and not stage.in_hand:
            yield f"no {stage.service} consumes {stage.stream}"
        if stage.lag_seconds > LAG_SECONDS:
            yield f"{stage.service} is behind: the oldest batch in {stage.stream} is {seconds(stage.lag_seconds)} old"
        if stage.full > FULL_SHARE:
            yield f"{stage.stream} is {stage.full:.0%} full: it refuses soon, and capture merges"
        if stage.in_hand and stage.stalled_seconds > STALLED_SECONDS:
            why = "the backend takes nothing" if stage.service == "exporter" else "nothing comes of them"
            yield f"{stage.service} has {stage.in_hand} in hand and settled none for {seconds(stage.stalled_seconds)}: {why}"


def _of_nodes(status: Status, silent_seconds: float) -> Iterator[str]:
    if status.looks_back and not status.nodes:
        yield "no node has been heard of lately"
    for node in status.nodes:
        if node.heard_seconds > silent_seconds:
            yield f"node {node.name} is silent for {seconds(node.heard_seconds)}"
        if node.pressure > FULL_SHARE:
            yield f"node {node.name}: its flow table is {node.pressure:.0%} full (WIRESPAN_CAPTURE_MAX_FLOWS)"


def _of_the_rest(status: Status) -> Iterator[str]:
    if status.last_dead_seconds is not None and status.last_dead_seconds < _DEAD_SECONDS:
        yield f"a dead letter {seconds(status.last_dead_seconds)} ago: wirespan dead-letters list"
    if status.index_seconds is not None and status.index_seconds > LAG_SECONDS:
        yield f"what is known of the cluster is {seconds(status.index_seconds)} old: no enricher follows the API server"
    if status.backend:
        yield f"the backend does not take spans: {status.backend}"


def seconds(number: float) -> str:
    """A duration for people."""
    return units.duration(round(number * _NS))
