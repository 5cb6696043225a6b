"""How updates of reflectors become messages of the shared cache's log: put together where they may be, cut where they must."""

from __future__ import annotations

from collections.abc import Sequence

from services.enricher.cache.messages import CHUNK_BYTES, ObjectChange, change_chunks, encode_object
from services.enricher.following.roster import Delta, News
from services.enricher.kubernetes.reflector import Scope, Update


def groups(updates: Sequence[Update]) -> list[list[Update]]:
    """Updates that can be one message: those of one scope, in their order. A whole one, and what follows it, is apart."""
    groups: list[list[Update]] = []
    open_groups: dict[Scope, list[Update]] = {}
    for update in updates:
        group = open_groups.get(update.scope)
        if group is None or update.whole or group[-1].whole:
            group = open_groups[update.scope] = []
            groups.append(group)
        group.append(update)
    return groups


def pieces_of(news: News, most_bytes: int = CHUNK_BYTES) -> list[tuple[News, list[ObjectChange]]]:
    """Cut news into what fits into messages. Only with the last piece the resource has been listed, and its version reached."""
    changes = change_chunks([ObjectChange(key, observed, encode_object(obj)) for key, obj, observed in news.deltas], most_bytes)
    pieces: list[tuple[News, list[ObjectChange]]] = []
    first = 0
    for number, chunk in enumerate(changes, 1):
        deltas: list[Delta] = news.deltas[first : first + len(chunk)]
        first += len(chunk)
        last = number == len(changes)
        version, listed = (news.version, news.listed) if last else ("", False)
        pieces.append((News(news.scope, deltas, news.observed_unix_ns, version, listed), chunk))
    return pieces
