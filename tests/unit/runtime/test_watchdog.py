"""The watchdog of the event loop, over real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

PROCESS = """
import asyncio, sys
from services.runtime.watchdog import watched_loop

async def main():
    with watched_loop(look_seconds=0.05, looks=10):
{body}

asyncio.run(main())
"""


def start(body: str) -> subprocess.Popen[str]:
    """A process whose loop does that under the watchdog."""
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS.format(body=body)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_whose_loop_is_stuck_ends_and_says_where() -> None:
    """It exits with 1, and standard error names the function that does not come back."""
    process = start("        def spin():\n            while True: pass\n        spin()")
    output, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "loop.stuck" in output + said
    assert "in spin" in said


def test_a_process_that_was_stopped_goes_on() -> None:
    """However long it was stopped, it is not held for stuck: the watchdog was stopped too."""
    process = start(
        "        print('ready', flush=True)\n        await asyncio.to_thread(sys.stdin.readline)\n        print('goes on')"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGSTOP)
    other = start("        def spin():\n            while True: pass\n        spin()")
    other.communicate(timeout=60)  # as long as it takes a stuck one to be ended
    os.kill(process.pid, signal.SIGCONT)
    output, said = process.communicate("\n", timeout=60)
    assert (process.returncode, output, said) == (0, "goes on\n", "")
