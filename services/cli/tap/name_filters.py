"""Filters of names: that were looked up, or that led to a peer. Given as patterns, as of files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

import numpy as np

from proto.columns import NO_ANSWER, NO_INDEX, OTHER_CODE, UNANSWERED
from proto.dns import RESPONSE_CODES
from proto.flow_batch import FlowBatch
from services.cli.tap.filters import Mask, RecordTest, is_question

_NONE = "none"
_OTHER = "other"


def dns_name(text: str) -> RecordTest:
    """A pattern of the name of a question that the record tells."""
    return _named(text, ("dns_first_name", "dns_slowest_name"))


def to_name(text: str) -> RecordTest:
    """A pattern of the name that was looked up for the destination, or that its client asked for by TLS."""
    return _named(text, ("remote_name", "tls_server_name"))


def dns_code(text: str) -> RecordTest:
    """A response code that a question of the record had; `none`: it had no answer. Raises ValueError."""
    places = {RESPONSE_CODES[code].lower(): code for code in range(OTHER_CODE)} | {_OTHER: OTHER_CODE, _NONE: UNANSWERED}
    place = places.get(text.lower())
    if place is None:
        raise ValueError(f"one of {', '.join(places)}")

    def accepts(batch: FlowBatch) -> Mask:
        alone = is_question(batch)
        code = batch.column("dns_first_code")
        of_question = np.where(code == NO_ANSWER, UNANSWERED, np.minimum(code, OTHER_CODE))
        found: Mask = np.where(alone, of_question == place, batch.column("dns_codes")[:, place] != 0)
        return found

    return accepts


def _named(text: str, columns: Iterable[str]) -> Callable[[FlowBatch], Mask]:
    pattern = text.lower().removesuffix(".")

    def accepts(batch: FlowBatch) -> Mask:
        accepted = np.array([*(fnmatchcase(name, pattern) for name in batch.names), False], np.bool_)
        found = np.zeros(batch.count, np.bool_)
        for column in columns:
            index = batch.column(column)
            found |= accepted[np.where(index == NO_INDEX, len(batch.names), index)]
        return found

    return accepts
