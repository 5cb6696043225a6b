"""Curves as SVG, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

mpl.rcParams.update({"svg.hashsalt": "wirespan", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10})


class Line(NamedTuple):
    """One curve."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "-"


def draw(path: Path, title: str, x: str, y: str, lines: Sequence[Line], *, log_x: bool = False) -> None:
    """Draw the curves into a file."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for line in lines:
        axes.plot(line.x, line.y, line.style, label=line.name, marker="o" if len(line.x) < 20 and line.style == "-" else None)
    axes.set(title=title, xlabel=x, ylabel=y)
    if log_x:
        axes.set_xscale("log")
        axes.set_xticks(lines[0].x, [f"{value:,g}" for value in lines[0].x], rotation=30)
        axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(b=False)
    if len(lines) > 1:
        axes.legend(frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    text = "\n".join(line.rstrip() for line in path.read_text().splitlines())
    path.write_text(f"{text}\n")
