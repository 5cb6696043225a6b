"""What the screen looks at: the pairs of the last minute, as they are searched, ordered and paused."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Final

from services.cli.explain.connections import Seen
from services.cli.explain.explanation import Explanation, explain
from services.cli.tap.filters import FlowFilter
from services.cli.view.asked import wanted as searched
from services.cli.view.kept import Kept, Piece
from services.cli.views.conversation_table import CONNECTION_COLUMNS, PAIR_COLUMNS, Column
from services.cli.views.conversations import WINDOW_SECONDS, Conversation, Conversations, Key, Told, rank
from services.cli.views.flow_view import FlowView
from services.cli.views.noise import NOISE, folded, is_noise

MOST_REQUESTS: Final = 50
"""Requests and questions of one connection that are shown: the latest."""


@dataclass(slots=True)
class Order:
    """What rows are ordered by: a column, or by default whatever is worst, then the busiest."""

    columns: Sequence[Column]
    place: int = -1
    backwards: bool = False

    def step(self, by: int) -> None:
        """Go on to the next column, or back."""
        self.place = (self.place + 1 + by) % (len(self.columns) + 1) - 1
        self.backwards = False

    def turn(self) -> None:
        """Turn the order round."""
        self.backwards = not self.backwards

    @property
    def said(self) -> str:
        """How it is called."""
        name = self.columns[self.place].name if self.place >= 0 else "troubles first"
        return f"by {name}{', backwards' if self.backwards else ''}" if self.place >= 0 or self.backwards else name

    @property
    def marks(self) -> dict[str, str]:
        """What stands behind the heading of the column."""
        if self.place < 0:
            return {}
        down = self._largest_first != self.backwards
        return {self.columns[self.place].name: " ▼" if down else " ▲"}

    def ordered(self, rows: Sequence[Conversation]) -> list[Conversation]:
        """Return rows, which come by their rank, in this order; what is equal stays in the order of ranks."""
        if self.place < 0:
            return list(reversed(rows)) if self.backwards else list(rows)
        return sorted(rows, key=self.columns[self.place].order, reverse=self._largest_first != self.backwards)

    @property
    def _largest_first(self) -> bool:
        return self.columns[self.place].name not in {"source", "destination", "protocol"}


@dataclass(frozen=True, slots=True)
class Row:
    """A connection among those of a pair."""

    shown: Conversation
    told: Told


class Pairs:
    """The pairs. Times are seconds on any monotonic clock; a window of None holds all that is kept."""

    def __init__(self, kept: Kept, wanted: FlowFilter, *, window_seconds: float | None = WINDOW_SECONDS) -> None:
        self.kept = kept
        self.order = Order(PAIR_COLUMNS)
        self.order_of_connections = Order(CONNECTION_COLUMNS)
        self.search = ""
        self.paused = False
        self._given = wanted
        self._wanted = wanted
        self._seconds = float("inf") if window_seconds is None else window_seconds
        self._pieces: deque[tuple[float, Piece]] = deque()
        self._last = 0
        self._now = 0.0
        self._found = Conversations(self._seconds)
        self._rows: list[Conversation] = []

    @property
    def of(self) -> str:
        """What the totals are of."""
        return "in all" if self._seconds == float("inf") else "last minute"

    @property
    def rows(self) -> Sequence[Conversation]:
        """The pairs in their order, as of the last look."""
        return self.order.ordered(self._rows)

    def hear(self, now_seconds: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Take in what came until that is `enough` for once, and leave what is too old; nothing of that while paused."""
        if self.paused:
            return
        self._now = now_seconds
        for piece in self.kept.since(self._last):
            self._pieces.append((now_seconds, piece))
            self._last = int(piece.numbers[-1])
            self._add(now_seconds, piece)
            if enough():
                break
        oldest = self.kept.oldest
        while self._pieces and (self._pieces[0][0] <= now_seconds - self._seconds or self._pieces[0][1].numbers[0] < oldest):
            self._pieces.popleft()

    def look(self) -> None:
        """Sum up what has been taken in."""
        self._rows = folded(self._found.current(self._now))

    def find(self, text: str) -> None:
        """Search by the filters of `tap`, among what the command was given. Raises QuestionError, and goes on as before."""
        self._wanted = self._given & searched({"q": text})
        self.search = text.strip()
        self._found = Conversations(self._seconds)
        for then, piece in self._pieces:
            self._add(then, piece)
        self.look()

    def connections(self, key: Key) -> list[Row]:
        """Return the connections of a pair, in their order; each goes by its client's port too."""
        keys = [each.key for each in self._found.summed if is_noise(each)] if key == NOISE else [key]
        found = [Row(_by_client(part, told), told) for each in keys for part, told in self._found.connections(each)]
        order = self.order_of_connections
        of = {id(row.shown): row for row in found}
        return [of[id(shown)] for shown in order.ordered(sorted((row.shown for row in found), key=rank))]

    def explained(self, told: Told) -> Explanation | None:
        """Return what there is to say of a connection; None where nothing of it is kept any more."""
        flows = {view.flow for view in told.views.values()}
        batches = self.kept.of(lambda view: view.of_flow and (view.connection == told.name or view.flow in flows))
        found = Seen(batches).connections(lambda _: True)
        same = [one for one in found if one.told.view.connection == told.name]
        return explain((same or found)[0], self.kept.place) if found else None

    def requests(self, told: Told) -> list[FlowView]:
        """Return the latest requests and questions on a connection."""
        flows = {view.flow for view in told.views.values()}
        found = [
            (number, view)
            for piece in self.kept.pieces
            for number, view in zip(piece.numbers.tolist(), piece.views, strict=True)
            if not view.of_flow and view.flow in flows
        ]
        found.sort(key=itemgetter(0))
        return [view for _, view in found[-MOST_REQUESTS:]]

    def _add(self, now_seconds: float, piece: Piece) -> None:
        for _, _, view in piece.wanted(self._wanted):
            self._found.add(now_seconds, view)


def _by_client(part: Conversation, told: Told) -> Conversation:
    last = next(reversed(told.views.values()))
    port = f":{last.source.port}" if last.source.port else ""
    name = f"[{part.source}]" if port and ":" in part.source else part.source
    return replace(part, source=f"{name}{port}")
