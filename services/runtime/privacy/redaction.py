"""What this process must not say: the secrets that it holds, taken out of every text that leaves it.

Whoever reads a secret has it hidden here. Standard error, and what else is written for people, passes through `redacted`, for a
secret may be in the texts of others: an error of a library, a server's answer that repeats what it was asked with.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterable
from typing import Any, Final, TextIO, cast
from urllib.parse import quote, unquote, urlsplit

SHORTEST: Final = 6
"""Characters of the shortest secret that is looked for; a shorter one may be part of any word."""
_MOST: Final = 256
"""Secrets that are remembered. Those that are renewed would be without number; the oldest go first."""
_MASK: Final = "***"

_hidden: dict[str, None] = {}
_pattern: re.Pattern[str] | None = None
_changing: Final = threading.Lock()


def hide(*secrets: str) -> None:
    """Take these out of all texts from now on, in each form in which they are likely to be in one."""
    global _pattern  # noqa: PLW0603 - one set for the process: a secret of one part may be in the words of another
    found = {part for secret in secrets for part in (secret.strip(), secret.rpartition(" ")[2].strip())}
    fresh = [secret for secret in found if len(secret) >= SHORTEST and secret not in _hidden]
    if not fresh:
        return
    with _changing:
        _hidden.update(dict.fromkeys(fresh))
        for oldest in list(_hidden)[:-_MOST]:
            del _hidden[oldest]
        forms = {form for secret in _hidden for form in _forms(secret)}
        _pattern = re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)), re.IGNORECASE)


def hide_userinfo(url: str) -> None:
    """Take the password of a URL out of all texts, or what stands in its place."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        secret = parts.password or parts.username
    except ValueError:  # no URL; whoever uses it says so
        secret = url.rpartition("@")[0].rpartition("//")[2]
    if secret:
        hide(secret, unquote(secret))


def redacted(text: str) -> str:
    """Return the text without what is hidden."""
    if _pattern is None:
        return text
    masked: list[tuple[int, int]] = []
    at = 0
    while (found := _pattern.search(text, at)) is not None:
        start, end = found.span()
        if masked and start < masked[-1][1]:  # one begins within another, whose rest is as secret
            start, end = masked[-1][0], max(end, masked.pop()[1])
        masked.append((start, end))
        at = found.start() + 1
    for start, end in reversed(masked):
        text = f"{text[:start]}{_MASK}{text[end:]}"
    return text


class _Guarded:
    """A text stream that writes nothing of what is hidden."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_standard_error() -> None:
    """Have all that goes to standard error, tracebacks that nobody catches among it, written without what is hidden."""
    if not isinstance(sys.stderr, _Guarded):
        sys.stderr = cast(TextIO, _Guarded(sys.stderr))


def _forms(secret: str) -> tuple[str, ...]:
    """As it is, quoted by JSON and by Python, and in a URL."""
    return secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe="")
