"""The README's pictures, drawn from what comes of the bundled capture and of live traffic. `make pictures` writes them.

python -m tests.support.documents.pictures
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from services.cli.screen.app import LiveScreen
from services.cli.screen.pairs import Pairs
from services.cli.tap.filters import FlowFilter
from services.cli.tap.input_file import InputLines
from services.cli.view.kept import Kept
from services.cli.views import units
from tests.support.kubernetes.cluster_in_a_box import ClusterInABox
from tests.support.pipeline.processes import Pipeline

ROOT: Final = Path(__file__).parents[3]
DATA: Final = ROOT / "tests" / "data"
IMAGES: Final = ROOT / "docs" / "images"

_TABLE_WIDTH: Final = 150
_TABLE_ROWS: Final = 28
_BAR_WIDTH: Final = 64
_SPANS_OF_REQUEST: Final = 6
_PATIENCE_SECONDS: Final = 90
_THEME: Final = TerminalTheme(
    (13, 17, 23),
    (201, 209, 217),
    [
        (72, 79, 88),
        (255, 123, 114),
        (63, 185, 80),
        (210, 153, 34),
        (88, 166, 255),
        (188, 140, 255),
        (57, 197, 207),
        (177, 186, 196),
    ],
    [
        (110, 118, 129),
        (255, 161, 152),
        (86, 211, 100),
        (227, 179, 65),
        (121, 192, 255),
        (210, 168, 255),
        (86, 212, 221),
        (240, 246, 252),
    ],
)
# The terminal's own monospace font: a picture in a README may fetch nothing.
_SVG: Final = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: {char_height}px;
 line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs>
<rect fill="#0d1117" x="0" y="0" width="{width}" height="{height}" rx="8"/>
<g transform="translate(9, 4)" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def main() -> None:
    """Draw what came of the bundled capture, and, as root, of a request between two pods that is captured live."""
    with tempfile.TemporaryDirectory() as folder:
        draw("table", asyncio.run(live_screen(replayed(Path(folder) / "spans.jsonl"))))
        if os.geteuid() == 0:
            draw("trace", waterfall(request_between_pods(Path(folder))))
        else:
            sys.stdout.write("docs/images/trace.svg stays: live capture needs root\n")


def replayed(spans: Path) -> bytes:
    """The spans of the bundled capture."""
    command = ["replay", DATA / "cluster.pcapng", "--kube-snapshot", DATA / "cluster.json", "--output", spans]
    subprocess.run([sys.executable, "-m", "services.cli", *command], check=True, capture_output=True)
    return spans.read_bytes()


def request_between_pods(folder: Path) -> list[dict[str, Any]]:
    """The spans of one request that carries a trace context, then those of the connection that it came over."""
    spans = folder / "live.jsonl"
    with ClusterInABox(folder) as box:
        settings = box.settings | {"WIRESPAN_EXPORTER_OUTPUT_FILE": str(spans)}
        with Pipeline(folder / "pipeline", **settings):
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while len(found := _one_request(spans)) < _SPANS_OF_REQUEST:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no whole request among the spans after {_PATIENCE_SECONDS} s")
                time.sleep(0.5)
    return found


def _one_request(spans: Path) -> list[dict[str, Any]]:
    """All that has been told of the first request that both ends have told of, together with its connection."""
    told = list(_spans(spans.read_bytes().rpartition(b"\n")[0])) if spans.exists() else []
    ends: dict[str, list[dict[str, Any]]] = {}
    for span in told:
        if span["name"].startswith("exchange at"):
            ends.setdefault(span["links"][0]["traceId"], []).append(span)
    for connection, exchanges in ends.items():
        roots = {span["spanId"] for span in exchanges}
        phases = [span for span in told if span.get("parentSpanId") in roots]
        of_connection = [span for span in told if span["traceId"] == connection]
        if len(exchanges) == len(of_connection) == len(("client", "server")):
            return _by_start([*exchanges, *phases]) + _by_start(of_connection)
    return []


def _by_start(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order in which a waterfall has them: whose parent begins first, then parents before children."""
    start = {span["spanId"]: int(span["startTimeUnixNano"]) for span in spans}

    def place(span: dict[str, Any]) -> tuple[int, str, int]:
        parent = span.get("parentSpanId", "")
        root = parent if parent in start else span["spanId"]
        return start[root], root, 0 if root == span["spanId"] else int(span["startTimeUnixNano"])

    return sorted(spans, key=place)


def draw(name: str, rendered: RenderableType) -> None:
    """Write `rendered` as docs/images/`name`.svg."""
    console = Console(record=True, width=_TABLE_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(rendered)
    path = IMAGES / f"{name}.svg"
    path.write_text(console.export_svg(code_format=_SVG, theme=_THEME, unique_id=f"wirespan-{name}"))
    sys.stdout.write(f"{path.relative_to(ROOT)}\n")


async def live_screen(content: bytes) -> RenderableType:
    """What `wirespan up` shows on a terminal."""
    kept = Kept()
    for held in InputLines(io.BytesIO(content)).held():
        kept.add(held.batch)
    app = LiveScreen(Pairs(kept, FlowFilter()), "replaying the bundled capture in a loop", ())
    async with app.run_test(size=(_TABLE_WIDTH, _TABLE_ROWS)) as pilot:
        await pilot.press("down", "down", "up")
        await pilot.pause()
        return app.screen._compositor.render_update(full=True)


def waterfall(spans: list[dict[str, Any]]) -> RenderableType:
    """One line a span: whose it is, what it is, when in the trace, how long."""
    first = min(int(span["startTimeUnixNano"]) for span in spans)
    whole = max(int(span["endTimeUnixNano"]) for span in spans) - first
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("service", "span", "", "duration", ""):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "duration" else "left")
    depths = _depths(spans)
    for span, before in zip(spans, [spans[0], *spans], strict=False):
        if span["traceId"] != before["traceId"]:
            table.add_row("", Text("linked: its connection", style="dim"))
        start = (int(span["startTimeUnixNano"]) - first) * _BAR_WIDTH // max(whole, 1)
        width = max(_duration(span) * _BAR_WIDTH // max(whole, 1), 1)
        colour = "yellow" if span["name"] == "server wait" else "red" if span.get("status", {}).get("code") == 2 else "blue"
        bar = Text(" " * min(start, _BAR_WIDTH - 1)).append("━" * min(width, _BAR_WIDTH - start), style=colour)
        name = Text("  " * depths[span["spanId"]] + span["name"], style="bold" if not depths[span["spanId"]] else "")
        table.add_row(span["service"], name, bar, units.duration(_duration(span)), Text(_remark(span), style="dim"))
    return table


def _remark(span: Mapping[str, Any]) -> str:
    attributes = {attribute["key"]: next(iter(attribute["value"].values())) for attribute in span.get("attributes", ())}
    connect = attributes.get("flow.tcp.connect.time")
    return f"connect {units.duration(int(connect))}" if connect else ""


def _depths(spans: list[dict[str, Any]]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for span in spans:
        depths[span["spanId"]] = depths.get(span.get("parentSpanId", ""), -1) + 1
    return depths


def _duration(span: Mapping[str, Any]) -> int:
    return int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])


def _spans(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.splitlines():
        for resource_spans in json.loads(line)["resourceSpans"]:
            resource = {each["key"]: each["value"] for each in resource_spans["resource"]["attributes"]}
            for scope_spans in resource_spans["scopeSpans"]:
                for span in scope_spans["spans"]:
                    yield {**span, "service": resource["service.name"]["stringValue"]}


if __name__ == "__main__":
    main()
