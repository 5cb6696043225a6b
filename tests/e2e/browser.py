"""Chromium, as the distribution has it, and a command of ours that serves it the page."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, sync_playwright

from services.cli.view.assets import why_not_built
from tests.e2e.conftest import WIRESPAN
from tests.support.ended import ended

CHROMIUM: Final = shutil.which("chromium") or shutil.which("google-chrome")
WHY_NOT: Final = why_not_built() if CHROMIUM else "there is no Chromium"
"""Why no page can be looked at here; empty where one can."""
PATIENCE_MS: Final = 60_000
_NOBODY_ELSE: Final = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
"""The browser itself would look up its maker's names."""


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Run Chromium for as long as the context lasts."""
    with sync_playwright() as playwright:
        # Root has no sandbox to be in, and a container little shared memory.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", _NOBODY_ELSE]
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@contextlib.contextmanager
def serving(folder: Path, *arguments: object) -> Iterator[str]:
    """Run a command that serves the page; yields its address."""
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            [*WIRESPAN, *map(str, arguments)], cwd=folder, env=None, stderr=subprocess.PIPE, stdout=said, text=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    with ended(process):
        assert process.stderr is not None
        found = next(filter(None, (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in process.stderr)), None)
        assert found, f"it ended with {process.wait()}"
        yield found[0]
