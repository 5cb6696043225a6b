"""Where the figures of `make curves` stand in docs/performance.md: a run of some replaces theirs and leaves the others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

_BEGIN: Final = "<!-- made by `make curves` -->\n"
_END: Final = "<!-- curves until here -->\n"
_BENCHES: Final = "<!-- made by `make bench` -->"


def written(document: str, head: str, sections: Mapping[str, str], order: Sequence[str]) -> str:
    """The document with these sections by their headings, in this order among those of earlier runs.

    `head` is said of a run of all, and where there is none yet. The first sections stand before those of all benchmarks.
    """
    before, old, after = _around(document)
    old_head, *old_sections = re.split(r"^### (.*)\n", old, flags=re.MULTILINE)
    found = dict(zip(old_sections[::2], map(str.strip, old_sections[1::2]), strict=True)) | sections
    if old_head.strip() and set(order) != set(sections):
        head = old_head.strip()
    texts = [head, *(f"### {title}\n\n{found[title]}" for title in order if title in found)]
    return f"{before}{_BEGIN}" + "\n\n".join(texts) + f"\n\n{_END}{after}"


def _around(document: str) -> tuple[str, str, str]:
    """Return what is before the curves, they themselves, and what is behind."""
    before, mark, rest = document.partition(_BEGIN)
    if mark:
        old, _, after = rest.partition(_END)
        return before, old, after
    before, mark, after = document.partition(_BENCHES)
    return f"{before.rstrip()}\n\n", "", f"\n{mark}{after}" if mark else ""
