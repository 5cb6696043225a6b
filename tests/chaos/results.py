"""What came of runs, fault by fault: kept in a JSON file, shown as the table of docs/reliability.md."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def keep(path: Path, records: Sequence[Record]) -> None:
    """Add a run's episodes to the file."""
    path.write_text(json.dumps([*kept(path), *records], indent=0) + "\n")


def kept(path: Path) -> list[Record]:
    """The episodes in the file."""
    found: list[Record] = json.loads(path.read_text()) if path.exists() else []
    return found


def table(records: Sequence[Record]) -> str:
    """A line for each fault, of all episodes that had it alone, and one for the pairs."""
    groups: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in records:
        name = ["nothing", *record["faults"], "two of these at once"][
            -1 if len(record["faults"]) > 1 else len(record["faults"])
        ]
        groups[name, record["servers"]].append(record)
    lines = [
        "| fault | NATS servers | episodes | seeds | connections | lost | wrong | other content | stall | recovery |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, servers), group in sorted(groups.items(), key=lambda item: (item[0][0].startswith("two "), item[0])):
        sums = [sum(each[what] for each in group) for what in ("connections", "lost", "wrong", "conflicts")]
        most = [max(each[what] for each in group) for what in ("stall_seconds", "recovery_seconds")]
        seeds = len({each["seed"] for each in group})
        cells = [name, servers, len(group), seeds, *sums, *(f"{seconds} s" for seconds in most)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
