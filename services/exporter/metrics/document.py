"""The section of docs/metrics.md on metrics of flows: `make docs` writes what is returned here."""

from __future__ import annotations

from services.exporter.metrics.instruments import COUNTED, TIMED


def markdown() -> str:
    """Return the table of all metrics."""
    lines = ["| metric | at Prometheus | unit | besides the pair | what is counted |", "|---|---|---|---|---|"]
    for counted in COUNTED:
        labels = ", ".join(f"`{name}`" for name in counted.label_names)
        lines.append(
            f"| `{counted.name}` | `{_underlined(counted.name)}_total` | {counted.unit} | {labels} | {counted.meaning} |"
        )
    for timed in TIMED:
        kind = f"exponential histogram, scale {timed.scale}"
        lines.append(f"| `{timed.name}` | `{_underlined(timed.name)}_seconds` | s | {kind} | {timed.meaning} |")
    return "\n".join(lines)


def _underlined(name: str) -> str:
    return name.replace(".", "_")
