"""Numbers as people read them: 1.2 ms, 3.4 MiB, 12,345. Two or three significant digits are enough to compare by eye."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

_BYTE_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_TIME_UNITS: Final = (("ns", 1_000), ("µs", 1_000), ("ms", 1_000), ("s", 60))
"""Each unit and how many of it make the next."""


_SPELT: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86_400 * 10**9,
}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h|d))+")
_LONGEST_NS: Final = 1 << 63
_SAID: Final = 40
"""Characters of what is too long."""
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(\D+)")


def nanoseconds(text: str) -> int:
    """Return the duration that a person wrote: 250us, 1.5s, 10m, 1h30m. Raises ValueError."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration; 100ms, 1.5s and 1h30m are")
    total = sum(float(number) * _SPELT[unit] for number, unit in _PART.findall(text))
    if total > _LONGEST_NS:
        raise ValueError(f"{text[:_SAID]!r} is too long: {_LONGEST_NS // _SPELT['d']}d is the longest duration")
    return round(total)


def byte_count(number: int) -> str:
    """Return a number of bytes in the binary unit that fits: 0 B, 512 B, 3.4 MiB."""
    value, unit = float(number), 0
    # 1023.5 and more would round to 1024 of the smaller unit.
    while value >= 1023.5 and unit < len(_BYTE_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{number} B" if unit == 0 else f"{_rounded(value)} {_BYTE_UNITS[unit]}"


def duration(nanoseconds: int) -> str:
    """Return a duration in the unit that fits: 850 ns, 1.2 ms, 34 s, 2 min 5 s, 3 h 12 min."""
    value = float(nanoseconds)
    for unit, in_next in _TIME_UNITS:
        if value < in_next - 0.5:
            return f"{nanoseconds} ns" if unit == "ns" else f"{_rounded(value)} {unit}"
        value /= in_next
    seconds = round(nanoseconds / 1e9)
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def moment(unix_ns: int) -> str:
    """Return a time of day in the local time zone, to the millisecond; with its date where that is not today's."""
    at = datetime.fromtimestamp(unix_ns / 1e9).astimezone()
    text = f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}"
    return text if at.date() == datetime.now().astimezone().date() else f"{at:%Y-%m-%d} {text}"


def count(number: int) -> str:
    """Return a count with its thousands apart: 12,345."""
    return f"{number:,}"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return a count with its noun: 1 record, 2 records, 3 batches."""
    return f"{count(number)} {singular if number == 1 else plural or singular + 's'}"


def _rounded(value: float) -> str:
    """One decimal below ten, none above; never 10.0, which 9.96 would be."""
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
