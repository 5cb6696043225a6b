"""What a service has taken in and what became of it: every record has an entry, or there is a difference, which must be 0.

The difference is no estimate over two services or two moments: it is of one process, and what that holds
at the moment is in it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from services.runtime.telemetry import Telemetry

TAKEN: Final = "taken"
GIVEN_BACK: Final = "given_back"
"""To whom it came from, who has it still: because of a stop, or of an error."""


class Item:
    """Some records that are in hand until they are told."""

    def __init__(self, number: int, told: Counter[str]) -> None:
        self.left = number
        self._told = told

    def tell(self, entry: str, number: int | None = None) -> None:
        """Say what became of so many of them; of all that are left, where no number is given."""
        number = self.left if number is None else number
        self.left -= number
        self._told[entry] += number


class Account:
    """What became of each of the records, or spans, that came in."""

    def __init__(self, *entries: str) -> None:
        """`entries` are what may become of one, beside that it is given back."""
        self._told = Counter(dict.fromkeys((TAKEN, *entries, GIVEN_BACK), 0))
        self._open: dict[Item, None] = {}
        self._lock = threading.Lock()

    def show(self, telemetry: Telemetry, service: str, unit: str) -> None:
        """Make metrics of it; `unit` is `record` or `span`."""
        name, of = f"wirespan.{service}.ledger.{unit}s", f"{{{unit}}}"
        telemetry.cumulative(
            name,
            f"What became of each {unit}: `taken` is the sum of all other entries and of what is held",
            of,
            lambda: [(number, {"entry": entry}) for entry, number in self.told.items()],
        )
        telemetry.gauge(f"{name}.held", "Taken, and nothing has become of it yet", of, lambda: self.held)
        telemetry.gauge(
            f"{name}.difference", "Taken, and nobody knows what became of it: never but 0", of, lambda: self.difference
        )

    @contextmanager
    def over(self, number: int) -> Iterator[Item]:
        """Have so many in hand while the block runs. If it ends with an error, what it has not told is given back."""
        item = Item(number, self._told)
        with self._lock:
            self._told[TAKEN] += number
            self._open[item] = None
        try:
            yield item
        except BaseException:
            item.tell(GIVEN_BACK)
            raise
        finally:
            with self._lock:
                del self._open[item]

    @property
    def told(self) -> dict[str, int]:
        """What was taken, and what became of it."""
        return dict(self._told)

    @property
    def held(self) -> int:
        """Taken, and nothing has become of it yet."""
        with self._lock:
            return sum(item.left for item in self._open)

    @property
    def difference(self) -> int:
        """Taken, and nobody knows what became of it."""
        with self._lock:
            told = sum(number for entry, number in self._told.items() if entry != TAKEN)
            return self._told[TAKEN] - told - sum(item.left for item in self._open)
