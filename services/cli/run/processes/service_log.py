"""What the services' logs say that a person should know now."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from services.cli.views.printable import printable

_TAIL_BYTES: Final = 64 * 1024
_SHOWN_KEYS_FIRST: Final = ("detail", "error", "exception", "reason")
_LEFT_OUT: Final = frozenset({"event", "level", "timestamp", "service"})
_LONGEST_LINE: Final = 300


def backend_trouble(log: Path) -> str | None:
    """Return why the exporter waits for its backend, None where it does not."""
    trouble = None
    for entry in _entries(log):
        match entry.get("event"):
            case "sink.throttled":
                trouble = printable(str(entry.get("detail") or entry.get("reason")))
            case "sink.recovered" | "service.started":
                trouble = None
    return trouble


def last_errors(log: Path, limit: int = 3) -> list[str]:
    """Return the last lines of `log` that say what went wrong, the oldest first.

    Those are its errors; where it has none, whatever it ended with, be it JSON or not.
    """
    entries = list(_entries(log))
    errors = [entry for entry in entries if entry.get("level") in {"error", "critical"}]
    # A service that is started again and again says the same each time.
    return list(dict.fromkeys(_line(entry) for entry in errors or entries))[-limit:]


def _entries(log: Path) -> Iterator[dict[str, Any]]:
    """The entries of the log's end; a line that is no JSON object is an entry with only an event."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - _TAIL_BYTES, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = line
        yield entry if isinstance(entry, dict) else {"event": line.strip()}


def _line(entry: dict[str, Any]) -> str:
    data: dict[str, Any] = {key: entry[key] for key in _SHOWN_KEYS_FIRST if key in entry}
    data |= {key: value for key, value in entry.items() if key not in _LEFT_OUT}
    # Of a traceback the last line says what it was.
    shown = [f"{key}={(str(value).strip().splitlines() or [''])[-1]}" for key, value in data.items()]
    return printable(" ".join([str(entry.get("event", "")), *shown]))[:_LONGEST_LINE]
