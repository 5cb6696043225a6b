"""The page with 5,000 edges in Chromium: what a frame costs while the map is moved, beside a map of next to none.

`python -m tests.bench.bench_page`. Without a graphics card, as here, the browser draws by the processor.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from proto.columns import Outcome
from proto.flow_batch import Entity
from proto.rows import rows
from tests.unit.cli.flow_records import START, record_batch

EDGES, WORKLOADS, NAMESPACES, FRAMES = 5_000, 700, 20, 120
FEW = 20
NOBODY_ELSE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
MOVE = """(frames) => new Promise((done) => {
  const box = document.querySelector(".drawing"), taken = [];
  let last = performance.now(), at = 0;
  const send = (type, x, buttons) => (type === "mousedown" ? box.querySelector("canvas") : window).dispatchEvent(
    new MouseEvent(type, { clientX: x, clientY: 400, bubbles: true, button: 0, buttons, which: 1, view: window }));
  send("mousedown", 400, 1);
  const step = (now) => {
    taken.push(now - last); last = now;
    if (++at > frames) { send("mouseup", 400, 0); done(taken.slice(2)); return; }
    send("mousemove", 400 + 100 * Math.sin(at / 8), 1);
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""


def records(edges: int) -> Iterator[dict[str, Any]]:
    """As many pairs of workloads, some of them in trouble."""
    chance = random.Random(5000)
    names = [(f"space-{number % NAMESPACES:02}", f"workload-{number}") for number in range(WORKLOADS)]
    pairs = dict.fromkeys(tuple(chance.sample(names, 2)) for _ in range(edges * 2))
    for number, ends in enumerate(list(pairs)[:edges]):
        entities = [
            Entity("k8s.pod", {"k8s.namespace.name": space, "k8s.deployment.name": name, "k8s.pod.name": name})
            for space, name in ends
        ]
        outcome = Outcome.REFUSED if number % 50 == 0 else Outcome.CLOSED
        batch = record_batch(
            entities=entities, local_entity=0, remote_entity=1, flow_id=number, local_port=1024 + number, outcome=outcome,
            end_unix_ns=START + number * 1_000_000,
        )  # fmt: skip
        yield from rows(batch)


@contextmanager
def serving(folder: Path, edges: int) -> Iterator[str]:
    """The page of so many edges."""
    file = folder / f"{edges}.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in records(edges)))
    command = [sys.executable, "-m", "services.cli", "view", file, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        yield re.findall(r"http://\S+/", process.stderr.readline())[0]
        process.terminate()


def measure(page: Page, address: str, edges: int) -> tuple[float, float, list[float]]:
    """Until the list is there, until the map stands, and each frame while it is moved, in ms."""
    page.goto(f"{address}?fold=none")
    page.get_by_text(f"{edges:,} flows").wait_for(timeout=120_000)
    page.wait_for_selector(".drawing[data-laid]", timeout=120_000)
    page.goto("about:blank")
    page.goto(f"{address}?fold=none")
    page.get_by_text(f"{edges:,} flows").wait_for()
    listed = page.evaluate("performance.now()")
    page.wait_for_selector(".drawing[data-laid]", timeout=120_000)
    stands = page.evaluate("performance.now()")
    return listed, stands, page.evaluate(MOVE, FRAMES)


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", NOBODY_ELSE])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        medians = []
        for edges in (FEW, EDGES):
            with serving(Path(folder), edges) as address:
                listed, stands, frames = measure(page, address, edges)
            medians.append(statistics.median(frames))
            worst = statistics.quantiles(frames, n=20)[-1]
            times = f"first view {listed:.0f} ms, map {stands:.0f} ms; a frame {medians[-1]:.1f} ms, 95% {worst:.1f} ms"
            sys.stdout.write(f"{edges:5,} edges: {times}\n")
        sys.stdout.write(f"a frame of {EDGES:,} edges takes {medians[1] / medians[0]:.2f} times one of {FEW}\n")
        browser.close()


if __name__ == "__main__":
    main()
