"""Names the ends of raw batches and judges their records: of all that wait, at once.

Looking up and judging take as many looks at columns whatever is in them. So batches are taken as one block (`index/block.py`),
and those that come soon after each other wait a moment to be in one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import structlog

from proto.columns import ENRICHED, VERDICT, Role
from proto.flow_batch import FlowBatch
from proto.verdicts.names import Verdict
from proto.verdicts.pairs import decided
from proto.verdicts.rules import verdicts
from proto.verdicts.terms import Thresholds
from services.enricher.backends import Backends
from services.enricher.index.block import Block, flows_of
from services.enricher.index.external_networks import ExternalNetworks
from services.enricher.index.index import Index
from services.enricher.index.source import View
from services.enricher.join import Joined
from services.runtime.gathering import Gathering

logger = structlog.get_logger()

_ADDED: Final = frozenset(column.name for column in ENRICHED + VERDICT)
_PACE_SECONDS: Final = 0.05
"""From one block to the next at the least: what a node sends it has gathered for seconds."""
_ENOUGH_BATCHES: Final = 16
"""As many do not wait for more."""
_MOST_BATCHES: Final = 64
_BLOCK_RECORDS: Final = 8192
"""No batch joins a block that has so many: beyond it nothing is saved, and columns no longer fit into a processor's cache."""


@dataclass(frozen=True, slots=True)
class Enriched:
    """What became of a batch."""

    batch: FlowBatch
    foreign: int
    """How many of its records say of somebody on another node that he is on its own."""


@dataclass(frozen=True, slots=True)
class _Raw:
    batch: FlowBatch
    view: View


class Enriching:
    """Where raw batches wait for each other."""

    def __init__(self, networks: ExternalNetworks, thresholds: Thresholds, *, most_at_once: int) -> None:
        """`most_at_once`: so many batches are ever brought here at the same time."""
        self._networks = networks
        self._thresholds = thresholds
        self._backends = Backends()
        self._untaught: list[FlowBatch] = []
        self._gathering: Gathering[_Raw, Enriched] = Gathering(
            self._work,
            enough=min(most_at_once, _ENOUGH_BATCHES),
            pace_seconds=_PACE_SECONDS,
            size=lambda raw: raw.batch.count,
            most_size=_BLOCK_RECORDS,
            most_pieces=_MOST_BATCHES,
        )

    def learn(self, batch: FlowBatch) -> None:
        """Take from a batch what others may need, though it is not its turn yet."""
        self._untaught.append(batch)

    async def enriched(self, batch: FlowBatch, view: View) -> Enriched:
        """Return the batch with its ends named, as the index has them, and with its records judged."""
        return await self._gathering.done(_Raw(batch, view))

    async def _work(self, raws: list[_Raw]) -> list[Enriched | Exception]:
        self._learn()
        results: dict[int, Enriched | Exception] = {}
        for numbers in _by_index(raws):
            own = [raws[number] for number in numbers]
            try:
                results |= zip(numbers, self._together(own), strict=True)
            except Exception:  # noqa: BLE001 - one of them trips it up: it must not take the others along
                results |= {number: self._alone(raws[number]) for number in numbers}
        return [results[number] for number in range(len(raws))]

    def _learn(self) -> None:
        untaught, self._untaught = self._untaught, []
        try:
            if untaught:
                self._backends.learn(flows_of(untaught))
        except Exception as error:  # noqa: BLE001 - one of them trips it up: the others are learned from all the same
            logger.warning("backends.not_learned", error=repr(error), hint="of one batch at least; tried one by one")
            for batch in untaught:
                with contextlib.suppress(Exception):
                    self._backends.learn(batch)

    def _together(self, raws: Sequence[_Raw]) -> list[Enriched]:
        block = Block([raw.batch for raw in raws])
        rows, columns = self._backends.told(block.flows)
        if len(rows):
            block.put(columns, rows)
        until = [raw.view.complete_until_unix_ns for raw in raws]
        return enriched(block, raws[0].view.index, until, self._networks, self._thresholds)

    def _alone(self, raw: _Raw) -> Enriched | Exception:
        try:
            return self._together([raw])[0]
        except Exception as error:  # noqa: BLE001 - raised where the batch is waited for
            return error


def enriched(
    block: Block,
    index: Index | None,
    complete_until_unix_ns: Sequence[int],
    networks: ExternalNetworks,
    thresholds: Thresholds,
) -> list[Enriched]:
    """Return the batches of a block with their ends named and their records judged; other columns are the same arrays."""
    joined = Joined(block, index, complete_until_unix_ns=complete_until_unix_ns, networks=networks)
    verdict, measure = verdicts(block.flows, thresholds)
    undecided = np.flatnonzero((verdict == Verdict.PATH_OR_SERVER) & (block.flows.column("role") == Role.CLIENT))
    with_undecided = {number for number, _ in block.by_batch(undecided)}
    found = []
    for number, raw in enumerate(block.batches):
        first, end = block.bounds[number : number + 2]
        columns, entities = joined.own(number)
        columns |= {"verdict": verdict[first:end], "verdict_measure": measure[first:end]}
        carried = {name: array for name, array in block.own(number).items() if name not in _ADDED}
        batch = replace(raw, columns=carried | columns, entities=entities)
        batch = decided(batch, thresholds) if number in with_undecided else batch
        found.append(Enriched(batch, joined.foreign.get(number, 0)))
    return found


def _by_index(raws: Sequence[_Raw]) -> Iterator[list[int]]:
    """The numbers of those that are looked up in the same index."""
    by_index: dict[int, list[int]] = {}
    for number, raw in enumerate(raws):
        by_index.setdefault(id(raw.view.index), []).append(number)
    yield from by_index.values()
