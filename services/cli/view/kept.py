"""The latest records, as the page looks at them: bounded, and numbered in the order in which they came."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

import numpy as np

from proto.columns import Reason
from proto.flow_batch import Array, FlowBatch
from proto.verdicts.names import Verdict
from proto.verdicts.rules import judged
from services.cli.explain.queries import RECENTLY, Place
from services.cli.tap.filters import FlowFilter, failed
from services.cli.view.joining import joined, kind
from services.cli.views.conversations import MOST_RECORDS
from services.cli.views.flow_view import FlowView, flow_views

_BUCKETS: Final = 120
_BUCKET_NS: Final = 100_000_000
"""The shortest stretch of the time line that is told apart."""
_PIECE: Final = 1024
"""Records that a piece has at the most, unless they came together."""
_SPANS: Final = 8
"""Into so many parts all that is kept falls, none of which one piece reaches beyond."""


@dataclass(slots=True)
class Piece:
    """Some records of one capture. Views of them are made when somebody looks."""

    numbers: Array
    """Of its records, in the order in which they came."""
    batch: FlowBatch
    _views: list[FlowView] = field(default_factory=list)

    @property
    def views(self) -> Sequence[FlowView]:
        """How people look at each record."""
        made = len(self._views)
        if made < self.batch.count:
            self._views = [*self._views, *flow_views(self.batch.take(slice(made, None)))]
        return self._views

    @property
    def views_made(self) -> list[FlowView]:
        """Those that have been made."""
        return self._views

    def wanted(self, which: FlowFilter, after: int = 0) -> Iterator[tuple[int, int, FlowView]]:
        """Yield number, place and view of the records that are wanted and have a number beyond `after`."""
        for at in np.flatnonzero(which.mask(self.batch)).tolist():
            if self.numbers[at] > after:
                yield int(self.numbers[at]), at, self.views[at]


class Kept:
    """What is kept. Beyond `most` records the oldest go: the page looks back less far rather than that memory grows."""

    def __init__(self, most: int = MOST_RECORDS) -> None:
        self._most = most
        self.place: Place = RECENTLY
        """Where the records come from."""
        self._pieces: dict[int, Piece] = {}
        """By the number of their first record, the oldest first."""
        self._changing = threading.Lock()
        """Pieces come and go in the loop's thread, and are joined in that of who looks."""
        self._changed = asyncio.Event()
        self.begun = time.time()
        """In Unix seconds: numbers that somebody has from another time are of other records."""
        self.records = 0
        self.last = 0
        """Number of the last record, from 1."""
        self.gone = 0
        """Records that were kept and are not any more."""
        self.left_out = 0
        """Messages that came faster than they were taken in."""
        self.notes: list[str] = []
        """What a person should know of where the records come from, a line each."""
        self.complete = False
        """Nothing more will come."""

    def add(self, batch: FlowBatch) -> None:
        """Keep the records of a batch."""
        if batch.count:
            batch = batch if "verdict" in batch.columns else judged(batch)
            first, self.last = self.last + 1, self.last + batch.count
            self.records += batch.count
            with self._changing:
                self._pieces[first] = Piece(np.arange(first, self.last + 1), batch)
                while self.records > self._most and len(self._pieces) > 1:
                    oldest = self._pieces.pop(next(iter(self._pieces))).batch.count
                    self.records -= oldest
                    self.gone += oldest
        self.tell()

    def _join(self) -> None:
        """Make larger pieces of small ones. What goes goes as a piece, so that none may hold records of now and of long ago."""
        found: dict[Hashable, list[Piece]] = {}
        some: list[list[Piece]] = []
        for piece in list(self._pieces.values()):
            whose = kind(piece.batch)
            group = found.get(whose, [])
            numbers = sum(len(each.numbers) for each in group) + len(piece.numbers)
            if not group or numbers > _PIECE or piece.numbers[-1] - group[0].numbers[0] >= self._most // _SPANS:
                found[whose] = group = []
                some.append(group)
            group.append(piece)
        for group in some:
            if len(group) > 1:
                self._replace(group, _one_of(group))

    def _replace(self, group: Sequence[Piece], piece: Piece) -> None:
        first, *others = (int(each.numbers[0]) for each in group)
        with self._changing:
            if first in self._pieces:  # else its oldest have gone meanwhile, and it is joined next time
                self._pieces[first] = piece
                for number in others:
                    del self._pieces[number]

    def end(self, notes: Sequence[str] = ()) -> None:
        """Nothing more will come; say why, where that is worth a word."""
        self.notes += notes
        self.complete = True
        self.tell()

    def note(self, line: str) -> None:
        """Say something of where the records come from."""
        self.notes.append(line)
        self.tell()

    def tell(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, within_seconds: float) -> bool:
        """Return at the next change, or when that time is over; whether there was one."""
        try:
            async with asyncio.timeout(within_seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    @property
    def pieces(self) -> list[Piece]:
        """All of them, the oldest first, as few as may be."""
        self._join()
        return list(self._pieces.values())

    @property
    def oldest(self) -> int:
        """Number of the first record of the oldest piece; 0 where there is none."""
        return next(iter(self._pieces), 0)

    def since(self, number: int) -> list[Piece]:
        """Return the records that came after a number, in the order in which they came: pieces as they were before joining."""
        found = []
        for piece in list(self._pieces.values()):
            if piece.numbers[0] > number and piece.numbers[-1] - piece.numbers[0] == len(piece.numbers) - 1:
                found.append(piece)
            elif piece.numbers[-1] > number:
                places = np.flatnonzero(piece.numbers > number)
                runs = np.split(places, np.flatnonzero(np.diff(piece.numbers[places]) > 1) + 1)
                found += [Piece(piece.numbers[run], piece.batch.take(run)) for run in runs]
        found.sort(key=lambda each: int(each.numbers[0]))
        return found

    def views(self, which: FlowFilter) -> list[FlowView]:
        """Return the records that are wanted, in the order in which they came."""
        found = [each for piece in self.pieces for each in piece.wanted(which)]
        found.sort(key=itemgetter(0))
        return [view for _, _, view in found]

    def of(self, which: Callable[[FlowView], bool]) -> list[FlowBatch]:
        """Return the records whose views are wanted, in batches."""
        found = []
        for piece in self.pieces:
            places = [at for at, view in enumerate(piece.views) if which(view)]
            if places:
                found.append(piece.batch.take(np.array(places)))
        return found

    def time_line(self) -> dict[str, object]:
        """Return how many records of flows ended in each stretch of time, and how many of those had trouble."""
        batches = [piece.batch for piece in self.pieces]
        if not batches:
            return {"begin_unix_ns": 0, "bucket_ns": 0, "records": [], "troubles": []}
        ends = np.concatenate([batch.column("end_unix_ns")[_of_flows(batch)] for batch in batches]).astype(np.int64)
        wrong = np.concatenate([_troubled(batch)[_of_flows(batch)] for batch in batches])
        if not len(ends):
            return {"begin_unix_ns": 0, "bucket_ns": 0, "records": [], "troubles": []}
        begin = int(ends.min())
        bucket = max((int(ends.max()) - begin) // (_BUCKETS - 1), _BUCKET_NS)
        place = (ends - begin) // bucket
        return {
            "begin_unix_ns": begin,
            "bucket_ns": bucket,
            "records": np.bincount(place).tolist(),
            "troubles": np.bincount(place[wrong], minlength=int(place.max()) + 1).tolist(),
        }


def _one_of(group: Sequence[Piece]) -> Piece:
    batch, numbers = joined([piece.batch for piece in group]), np.concatenate([piece.numbers for piece in group])
    return Piece(numbers, batch, group[0].views_made)


def _of_flows(batch: FlowBatch) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.asarray(batch.column("reason") != Reason.EXCHANGE)


def _troubled(batch: FlowBatch) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.asarray(~np.isin(batch.column("verdict"), (Verdict.UNKNOWN, Verdict.OK)) | failed(batch))
