"""The attributes of one profile, out of the table of all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from services.exporter.attributes import INTEGERS, WORDS, Integers, Word
from services.exporter.profiles import Profile, carries


@dataclass(frozen=True, slots=True)
class Selection:
    """What the spans of a profile carry."""

    profile: Profile
    words: tuple[Word, ...]
    integers: tuple[Integers, ...]

    def has(self, name: str) -> bool:
        """Whether an attribute of an end is among them."""
        return self.profile == "full" or carries(self.profile, name)


@lru_cache(maxsize=3)
def selection(profile: Profile) -> Selection:
    """Return what the spans of a profile carry."""
    words = tuple(word for word in WORDS if carries(profile, word.name))
    blocks = (
        replace(block, attributes=tuple(row for row in block.attributes if carries(profile, row.name))) for block in INTEGERS
    )
    return Selection(profile, words, tuple(block for block in blocks if block.attributes))
