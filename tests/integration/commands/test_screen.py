"""`wirespan up` at a real terminal, from the first row to what is left in the file of spans."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from tests.support.pipeline.terminal import Terminal, at_terminal

ROOT = Path(__file__).parents[3]
OUR_SCREEN, GIVEN_BACK = b"\x1b[?1049h", b"\x1b[?1049l"


def wirespan(folder: Path, *arguments: str | Path) -> AbstractContextManager[Terminal]:
    """The command at a terminal."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NO_COLOR", "OTEL_", "WIRESPAN_"))}
    environ = kept | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "services.cli", *arguments]
    return at_terminal(command, columns=80, lines=24, cwd=folder, environ=environ)


def up(folder: Path) -> AbstractContextManager[Terminal]:
    """The bundled capture in a loop, at a terminal."""
    return wirespan(folder, "up", "--demo", "--speed", "20", "--no-view", "--output", "spans.jsonl")


def spans_in(path: Path) -> int:
    """How many spans a file of whole lines has."""
    content = path.read_text()
    assert content.endswith("\n")
    requests = map(json.loads, content.splitlines())
    return sum(len(scope["spans"]) for each in requests for some in each["resourceSpans"] for scope in some["scopeSpans"])


def test_somebody_searches_looks_into_a_connection_and_presses_ctrl_c(tmp_path: Path) -> None:
    """At 80 columns and in a window that changes; all that was told until then is in the file, and accounted for."""
    with up(tmp_path) as terminal:
        terminal.until(lambda shown: "shop/frontend" in shown and "established" in shown and re.search(r"\d spans? in", shown))
        terminal.type("/")
        terminal.until(lambda shown: "slower-than" in shown)
        terminal.type("failed to-port 80\r")
        terminal.until(lambda shown: "search: failed to-port 80" in shown and "refused" not in shown)
        assert "shop/payments:80" in terminal.text
        terminal.resize(120, 40)
        terminal.until(lambda shown: "sent " in shown and "q end" in shown.splitlines()[-1])
        terminal.type("\r")
        terminal.until(lambda shown: "shop/frontend -> shop/payments:80" in shown and "esc back" in shown)
        assert re.search(r"\d\d:\d\d:\d\d\.\d{3} +shop/frontend:\d+ +.*reset", terminal.text)
        terminal.type("\r")
        terminal.until(lambda shown: "verdict  reset_by_" in shown and "because" in shown)
        terminal.type("\x03")
        assert terminal.ended() == 0
    after = terminal.raw.partition(GIVEN_BACK)[2].decode()
    accepted = re.search(r"spans accepted *(?:\x1b\[\S*m)? *([\d,]+)", after)
    assert accepted, after
    assert int(accepted[1].replace(",", "")) == spans_in(tmp_path / "spans.jsonl") > 0


def test_a_signal_gives_the_terminal_back_before_the_account_is_printed(tmp_path: Path) -> None:
    """As a key does."""
    with up(tmp_path) as terminal:
        terminal.until(lambda shown: "q end" in shown)
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.ended() == 0
    ours, _, after = terminal.raw.partition(GIVEN_BACK)
    assert OUR_SCREEN in ours
    assert b"packets read" not in ours
    assert b"packets read" in after
    assert b"Traceback" not in terminal.raw


def test_a_capture_is_looked_at_in_the_same_way_without_a_run(tmp_path: Path) -> None:
    """All of it, however old."""
    data = ROOT / "tests" / "data"
    with wirespan(
        tmp_path, "view", "--terminal", data / "cluster.pcapng", "--kube-snapshot", data / "cluster.json"
    ) as terminal:
        terminal.until(lambda shown: "in all: 32 flows" in shown)
        terminal.type("\r")
        terminal.until(lambda shown: "shop/frontend -> shop/payments:80" in shown and "esc back" in shown)
        terminal.type("q")
        assert terminal.ended() == 0
    assert GIVEN_BACK in terminal.raw
    assert b"Traceback" not in terminal.raw
