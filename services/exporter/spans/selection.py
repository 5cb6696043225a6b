"""The attributes of one profile, out of the table of all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from proto.flow_batch import Array
from services.exporter.spans.attributes import INTEGERS, WORDS, Integer, Integers, Word
from services.exporter.spans.profiles import Profile, carries
from services.exporter.spans.records import Records


@dataclass(frozen=True, slots=True)
class Selection:
    """What the spans of a profile carry."""

    profile: Profile
    words: tuple[Word, ...]
    integers: tuple[Integers, ...]
    left_out: re.Pattern[str]
    """Names that are not carried whatever the profile."""

    def has(self, name: str) -> bool:
        """Whether an attribute is among them."""
        if self.profile == "full" and self.left_out is _NOTHING:
            return True
        return not self.left_out.fullmatch(name) and carries(self.profile, name)

    def values(self, attributes: Iterable[Integer], records: Records) -> dict[str, Array]:
        """Return the columns of those of these attributes that are among them, by name."""
        return {row.name: row.values(records) for row in attributes if self.has(row.name)}


_NOTHING: Final = re.compile(r"(?!)")


def selection(profile: Profile, left_out: re.Pattern[str] = _NOTHING) -> Selection:
    """Return what the spans of a profile carry, without what has a name of the pattern."""
    of_ends = Selection(profile, (), (), left_out)
    words = tuple(word for word in WORDS if of_ends.has(word.name))
    blocks = (replace(block, attributes=tuple(row for row in block.attributes if of_ends.has(row.name))) for block in INTEGERS)
    return replace(of_ends, words=words, integers=tuple(block for block in blocks if block.attributes))
