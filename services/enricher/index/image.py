"""References to images, `registry/name:tag@digest`, as the semantic conventions tell of them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

_REFERENCE: Final = re.compile(
    r"(?P<name>(?:[^/@]+/)*[^/:@]+)(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>[\w+.-]+:[0-9a-fA-F]{32,}))?"
)
_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")
"""Of an image that runs by its id, as no tag is its any more: it has no name."""


class Image(NamedTuple):
    """The parts of a reference, empty where they are not said: `latest` is assumed of nobody."""

    name: str = ""
    tag: str = ""
    digest: str = ""

    @property
    def version(self) -> str:
        """`<tag>@<digest>`, or the one of the two that it has, or nothing."""
        return "@".join(part for part in (self.tag, self.digest) if part)

    @property
    def attributes(self) -> dict[str, str | list[str]]:
        """What it says of a container."""
        known: dict[str, str | list[str]] = {"container.image.name": self.name} if self.name else {}
        return {**known, "container.image.tags": [self.tag]} if self.tag else known


@lru_cache(maxsize=4096)
def image_of(reference: str) -> Image:
    """Return the parts of a reference; all empty where it is none. Containers of one image share them."""
    if _ID.fullmatch(reference):
        return Image(digest=reference)
    found = _REFERENCE.fullmatch(reference)
    return Image(found["name"], found["tag"] or "", found["digest"] or "") if found else Image()
