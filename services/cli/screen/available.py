"""Whether there is a terminal for the screen. Loads nothing that draws: where there is none, nobody waits for that."""

from __future__ import annotations

import importlib.util
import os
import sys


def has_screen() -> bool:
    """Whether somebody sits at a terminal that can do more than lines, and has not asked for plain ones. The services' images
    have nothing that draws.
    """
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "") in {"", "dumb", "unknown"}
    if plain or importlib.util.find_spec("textual") is None:
        return False
    return sys.stdin.isatty() and sys.stdout.isatty() and _in_foreground()


def _in_foreground() -> bool:
    """Whether the terminal's keys are ours: it stops who asks for them in the background."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # not the terminal that controls us
        return True
