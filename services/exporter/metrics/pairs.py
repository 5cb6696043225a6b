"""Who talks to whom: the workload pair of each record, as one number, and what a number stands for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np

from proto.columns import NO_INDEX, Resolution
from proto.flow_batch import Array, Entity
from services.exporter.otlp.piece_table import CACHE_LIMIT
from services.exporter.spans.entities import EXTERNAL_PEER, service_name
from services.exporter.spans.facts import transport_name
from services.exporter.spans.identity import Mask, Side
from services.exporter.spans.records import Records

UNKNOWN: Final = "unknown"
_SOURCE, _DESTINATION, _TRANSPORT = 40, 16, 8
"""Where in a key; the lowest bits are the side."""
_END_MASK: Final = (1 << 24) - 1
_NAMES: Final = ("service.name", "k8s.service.name", "external.name")
"""What an end is called by, the best first: as for `service_name`."""
_NOBODY: Final = (len(_NAMES), 0, 0)
TOO_MANY: Final = 0
"""Number of the ends beyond those that can be told apart."""
_LEAST_ENDS: Final = 1024


class Pair(NamedTuple):
    """The attributes of a pair's series, in the order of `PAIR_LABELS`."""

    source_namespace: str
    source: str
    destination_namespace: str
    destination: str
    transport: str
    observer: str


class Pairs:
    """Numbers the ends of records; what is kept between batches is bounded by `most_ends`."""

    def __init__(self, most_ends: int, *, looked_up: bool) -> None:
        """`looked_up`: a name that was looked up for a destination that nobody knows is its name."""
        self._most_ends = min(max(most_ends, _LEAST_ENDS), _END_MASK)
        self._looked_up = looked_up
        self._ends: list[tuple[str, str] | None] = [None, (UNKNOWN, ""), (EXTERNAL_PEER, "")]
        self._numbers = {end: number for number, end in enumerate(self._ends) if end}
        self._own = frozenset(range(len(self._ends)))
        self._unknown, self._external = 1, 2
        self._free: list[int] = []
        self._zones = {"": 0}
        self._known: dict[bytes, tuple[int, int, int]] = {}

    def keys(self, records: Records) -> Array:
        """Return the pair of each record, as a number; 0 where one of its ends is one too many."""
        source, destination = np.split(self._both_ends(records), 2)
        key: Array = source.astype(np.uint64) << np.uint64(_SOURCE) | destination.astype(np.uint64) << np.uint64(_DESTINATION)
        key |= records.column("transport").astype(np.uint64) << np.uint64(_TRANSPORT) | records.seen.side
        key *= (source != TOO_MANY) & (destination != TOO_MANY)
        return key

    def forget_all_but(self, keys: Iterable[int]) -> None:
        """Have only the ends of some pairs known; the numbers of the others are given to new ones."""
        used = {key >> shift & _END_MASK for key in keys for shift in (_SOURCE, _DESTINATION)} | self._own
        for number, end in enumerate(self._ends):
            if end is not None and number not in used:
                del self._numbers[end]
                self._ends[number] = None
                self._free.append(number)
        self._known.clear()

    def cross_zones(self, records: Records) -> Mask:
        """Where both ends are in zones that are known, and not the same."""
        zones = self._table(records.batch.entities or ())[:, 2]
        source, destination = np.split(zones.take(np.minimum(records.ends("entity"), len(zones) - 1)), 2)
        crosses: Mask = (source != destination) & (source != 0) & (destination != 0)
        return crosses

    def pair(self, key: int) -> Pair:
        """Return what a number that `keys` gave stands for."""
        source, source_namespace = self._ends[key >> _SOURCE & _END_MASK] or ("", "")
        destination, destination_namespace = self._ends[key >> _DESTINATION & _END_MASK] or ("", "")
        transport, side = transport_name(key >> _TRANSPORT & 0xFF), Side(key & 0xFF).name.lower()
        return Pair(source_namespace, source, destination_namespace, destination, transport, side)

    def _both_ends(self, records: Records) -> Array:
        """The number of each source, and behind them of each destination."""
        rank, number, _ = self._table(records.batch.entities or ()).T
        workload, service = (np.minimum(records.ends(name), len(rank) - 1) for name in ("entity", "service"))
        service_is_better = rank[service] < rank[workload]
        best = np.where(service_is_better, service, workload)
        found = number[best]
        nameless = rank[best] == len(_NAMES)
        outside = records.ends("resolution") == Resolution.EXTERNAL
        found = np.where(nameless, np.where(outside, self._external, self._unknown), found)
        if self._looked_up and records.has("remote_name"):
            self._name_looked_up(found[records.count :], nameless[records.count :] & outside[records.count :], records)
        return found

    def _table(self, entities: Sequence[Entity]) -> Array:
        """For each entity how good a name it has, the number of the end that it is, and that of its zone; last, for nobody."""
        if len(self._known) > CACHE_LIMIT:
            self._known.clear()
        rows = [self._known.get(entity.packed) or self._look_at(entity) for entity in entities]
        return np.array([*rows, _NOBODY], np.int64)

    def _look_at(self, entity: Entity) -> tuple[int, int, int]:
        end, (rank, number, _) = service_name(entity, None), _NOBODY
        if end is not None:
            rank = next(place for place, name in enumerate(_NAMES) if entity.attributes.get(name) == end[0])
            number = self._number(end)
        zone = str(entity.attributes.get("cloud.availability_zone", ""))
        found = self._known[entity.packed] = rank, number, self._zones.setdefault(zone, len(self._zones))
        return found

    def _name_looked_up(self, ends: Array, nobody_knows: Mask, records: Records) -> None:
        name = records.column("remote_name")
        rows = (nobody_knows & records.remote_is_destination & (name != NO_INDEX)).nonzero()[0]
        for index in np.unique(name[rows]).tolist():
            ends[rows[name[rows] == index]] = self._number((records.batch.names[index], ""))

    def _number(self, end: tuple[str, str]) -> int:
        number = self._numbers.get(end)
        if number is None:
            if self._free:
                number = self._free.pop()
                self._ends[number] = end
            elif len(self._ends) < self._most_ends:
                number = len(self._ends)
                self._ends.append(end)
            else:
                return TOO_MANY
            self._numbers[end] = number
        return number
