"""What is known to be in the cluster, and what of a reflector's updates is news.

The same for an enricher that follows the API server itself and for one that writes the shared cache: news is worked out first,
and taken once it stands.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from services.enricher.index.claims import FOREVER, unix_ns
from services.enricher.kubernetes.object_meta import KubeObject
from services.enricher.kubernetes.pods import Pod
from services.enricher.kubernetes.reflector import Scope, Update
from services.enricher.kubernetes.resources import ADDRESSED


class Delta(NamedTuple):
    """An object that is so since `observed_unix_ns`, or with None, that it is gone since then."""

    key: str
    obj: KubeObject | None
    observed_unix_ns: int


@dataclass(frozen=True, slots=True)
class News:
    """What has changed among the objects of a scope. `listed`: with this, all of them are known."""

    scope: Scope
    deltas: list[Delta]
    observed_unix_ns: int
    version: str = ""
    listed: bool = False


class Roster:
    """Objects by scope and key, and where each scope's watch goes on."""

    def __init__(self) -> None:
        self.known: dict[Scope, dict[str, KubeObject]] = defaultdict(dict)
        self.versions: dict[Scope, str] = {}
        self.listed: set[Scope] = set()
        self.complete_since_unix_ns = FOREVER
        """From when on every object with an address was seen."""

    def __len__(self) -> int:
        """How many objects are known."""
        return sum(len(known) for known in list(self.known.values()))

    def news(self, *updates: Update) -> News:
        """Return what updates of one scope, in their order, bring that is not known. A whole one comes alone."""
        now: dict[str, KubeObject | None] = {}
        deltas = [delta for update in updates for delta in self._deltas(update, now)]
        first, last = updates[0], updates[-1]
        return News(last.scope, deltas, first.observed_unix_ns, last.version, last.whole)

    def take(self, news: News) -> None:
        """Know it."""
        known = self.known[news.scope]
        for key, obj, _ in news.deltas:
            if obj is None:
                known.pop(key, None)
            else:
                known[key] = obj
        if news.version:
            self.versions[news.scope] = news.version
        if news.listed:
            # What came and went before a list, also before another one than the first, nobody has seen.
            again = news.scope in self.listed and news.scope.resource in ADDRESSED
            self.listed.add(news.scope)
            if (again or self.complete_since_unix_ns == FOREVER) and all_addresses(self.listed):
                self.complete_since_unix_ns = time.time_ns()

    def _deltas(self, update: Update, now: dict[str, KubeObject | None]) -> Iterator[Delta]:
        """What is new; `now` is by key what was new before, and gets what is new here."""
        known, observed = self.known[update.scope], update.observed_unix_ns
        for obj, deleted in update.changes:
            key = obj.key
            before = now[key] if key in now else known.get(key)
            if deleted:
                now[key] = None
                yield Delta(key, None, observed)
            elif before != obj:
                # One that is new here may be old: it was there before the first list, or came while nobody could see it.
                # Of a pod that says nothing: it is there long before it has an address, and says since when it has.
                is_old = before is None and not isinstance(obj, Pod)
                since = unix_ns(obj.metadata.creation_timestamp) if is_old else 0
                now[key] = obj
                yield Delta(key, obj, min(since or observed, observed))
        if update.whole:
            # Last: how long before the list these ended is not known, and who followed says when he began.
            missing = known.keys() - {change.obj.key for change in update.changes}
            yield from (Delta(key, None, observed) for key in missing)


def all_addresses(scopes: set[Scope]) -> bool:
    """Return whether all resources that hold addresses are among scopes of all namespaces."""
    return {scope.resource for scope in scopes if not scope.namespace} >= ADDRESSED
