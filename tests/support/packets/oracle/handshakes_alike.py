"""How many handshakes of captures tshark and we read alike, as a table of docs/accuracy.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def handshakes_alike(
    paths: Iterable[Path],
    of_tshark: Callable[[Path], dict[Any, Any]],
    of_wirespan: Callable[[Path], dict[Any, Any]],
    otherwise: Mapping[str, str],
) -> Iterator[str]:
    """Yield the table, file by file. `otherwise`: why some differ, by the file's name."""
    yield """
| capture | handshakes: tshark | Wirespan | alike | why not all |
|---|---|---|---|---|
"""
    for path in paths:
        theirs, ours = of_tshark(path), of_wirespan(path)
        alike = sum(theirs.get(key) == told for key, told in ours.items())
        if theirs or ours:
            yield f"| {path.name} | {len(theirs)} | {len(ours)} | {alike} | {otherwise.get(path.name, '')} |\n"
