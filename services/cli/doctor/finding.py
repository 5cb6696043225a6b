"""What a check of `wirespan doctor` says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from services.cli.views.printable import printable

_CREDENTIALS: Final = re.compile(r"(^|,|//)[^/@,\s]*@")


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    """Capture works, with less than it could have."""
    FAIL = "fail"
    """Something that is needed is missing."""
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check came to: each text is one line of what can be printed."""

    status: Status
    found: str
    fix: str = ""
    """What to do where it is not ok."""


def ok(found: str) -> Finding:
    """Return that all is well, and why."""
    return Finding(Status.OK, one_line(found))


def warn(found: str, fix: str) -> Finding:
    """Return what could be better, and how."""
    return Finding(Status.WARN, one_line(found), one_line(fix))


def fail(found: str, fix: str) -> Finding:
    """Return what is missing, and how to have it."""
    return Finding(Status.FAIL, one_line(found), one_line(fix))


def skipped(reason: str) -> Finding:
    """Return why there was nothing to look at."""
    return Finding(Status.SKIPPED, one_line(reason))


def one_line(text: str, limit: int = 400) -> str:
    """Return `text`, part of which others may have written, on one line and without control characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def without_credentials(url: str) -> str:
    """Return one URL, or several separated by commas, without the user and the password in them."""
    return _CREDENTIALS.sub(r"\1***@", url)


def first_line(path: Path) -> str | None:
    """Return the first line of a file without its end; None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
    except OSError:
        return None
