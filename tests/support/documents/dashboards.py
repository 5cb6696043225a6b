"""The dashboards as Grafana gets them, and the queries in them as the data sources get them: variables filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

ROOT: Final = Path(__file__).parents[3]
FILES: Final = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
_FILLED_IN: Final = {
    "$__rate_interval": "1m",
    "$__range": "30m",
    "$instance": ".*",
    "$client": ".*",
    "$server": ".*",
    "${client:pipe}": ".*",
    "${server:pipe}": ".*",
    "${where:raw}": "true",
}


class Query(NamedTuple):
    """A query of a panel, or of a variable where `panel` is the variable's name."""

    dashboard: str
    panel: str
    language: str
    """promql, traceql, or label_values."""
    text: str


def load(path: Path) -> dict[str, Any]:
    """A dashboard."""
    dashboard: dict[str, Any] = json.loads(path.read_text())
    return dashboard


def queries() -> list[Query]:
    """Every query of every dashboard."""
    return [query for path in FILES for query in _of(path.stem, load(path))]


def alerts() -> list[Query]:
    """Every expression of an alert."""
    groups = yaml.safe_load((ROOT / "deploy" / "compose" / "alerts.yaml").read_text())["groups"]
    return [Query("alerts", rule["alert"], "promql", rule["expr"]) for group in groups for rule in group["rules"]]


def metrics_of(query: Query) -> set[str]:
    """The names of metrics in a PromQL query."""
    return set(re.findall(r"\b((?:wirespan|traces)_[a-z_]+)", query.text))


def _of(name: str, dashboard: dict[str, Any]) -> Iterator[Query]:
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield Query(name, variable["name"], "label_values", filled_in(variable["definition"]))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            if "expr" in target:
                yield Query(name, panel["title"], "promql", filled_in(target["expr"]))
            elif target["queryType"] == "traceql":
                yield Query(name, panel["title"], "traceql", filled_in(target["query"]))


def filled_in(text: str) -> str:
    """The query with every variable at its default. Raises ValueError where one is unknown."""
    for variable, value in _FILLED_IN.items():
        text = text.replace(variable, value)
    if "$" in text:
        raise ValueError(f"a variable that no test knows in {text}")
    return text
