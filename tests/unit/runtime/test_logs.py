"""Logs: one line per event on standard error, the libraries' too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PROGRAM = """
import logging, structlog
from services.runtime import logs
from services.runtime.settings import LogSettings
logger = structlog.get_logger()
logs.configure(LogSettings(level="info", format={format!r}), service="sample")
logger.debug("batch.sent")
logger.info("bus.connected", server="a:1")
logging.getLogger("library").warning("of %s", "theirs")
logging.getLogger("nats.aio").warning("per retry")
try:
    raise ValueError("inner")
except ValueError as error:
    logger.error("batch.refused", exc_info=error)
"""


def logged(format: str) -> str:  # noqa: A002 - the setting's name
    """What the program writes to standard error."""
    program = [sys.executable, "-c", PROGRAM.format(format=format)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr


def test_json_is_one_object_per_line() -> None:
    """Every line has time, level, service and event; an exception is in its line."""
    lines = [json.loads(line) for line in logged("json").splitlines()]

    assert [(line["level"], line["event"]) for line in lines] == [
        ("info", "bus.connected"),
        ("warning", "of theirs"),
        ("error", "batch.refused"),
    ]
    assert all(line["service"] == "sample" and line["timestamp"].endswith("Z") for line in lines)
    assert lines[0]["server"] == "a:1"
    assert "ValueError: inner" in lines[2]["exception"]


def test_without_a_terminal_auto_is_json_and_console_has_no_colours() -> None:
    """`auto` is for machines where nobody looks."""
    assert logged("auto").startswith("{")
    console = logged("console")
    assert "bus.connected" in console
    assert "\x1b[" not in console


HOSTILE = """
import structlog
from services.runtime import logs
from services.runtime.settings import LogSettings
logs.configure(LogSettings(format={format!r}), service="sample")
log = structlog.get_logger()
log.warning("backend.refused", detail="x" * 4_000_000)
log.warning("backend.refused", escape="\\x1b]0;owned\\x07\\x9b2J\\u202etxt\\x7f", many=["y" * 9] * 100_000)
try:
    raise ValueError("z" * 4_000_000 + "\\x1b[2J")
except ValueError as error:
    log.error("batch.failed", exc_info=error)
"""


@pytest.mark.parametrize("format", ["json", "console"])
def test_what_others_say_is_cut_and_commands_nothing(format: str) -> None:  # noqa: A002 - the setting's name
    """Texts of megabytes take a few kilobytes, an exception's too; escapes, C1, DEL and overrides of direction are shown."""
    program = [sys.executable, "-c", HOSTILE.format(format=format)]
    logged = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    assert len(logged) < 30_000
    assert "(4000000 characters)" in logged
    assert all(c.isprintable() or c in "\n\t" for c in logged)
    assert "owned" in logged
