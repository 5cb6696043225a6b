"""What the browser is given: files that `web/` was built into, kept in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.cli.errors import CliError

FOLDER: Final = Path(__file__).parent / "assets"
_TYPES: Final = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file."""

    content: bytes
    type: str
    tag: str
    """Changes with the content."""


def why_not_built(folder: Path = FOLDER) -> str:
    """Return what is missing where the page has not been built; empty where it has."""
    if (folder / "index.html").exists():
        return ""
    return "the page is not built: `make setup` builds it where Node (18 or later), npm and their registry can be had"


def assets(folder: Path = FOLDER) -> dict[str, Asset]:
    """Return the files by name. Raises CliError where the page has not been built."""
    if missing := why_not_built(folder):
        raise CliError(missing)
    found = {}
    for path in folder.iterdir():
        if path.suffix in _TYPES:
            content = path.read_bytes()
            found[path.name] = Asset(content, _TYPES[path.suffix], hashlib.blake2b(content, digest_size=8).hexdigest())
    return found
