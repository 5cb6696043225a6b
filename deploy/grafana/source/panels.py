"""What the dashboards are made of: panels, queries, variables, and a layout that flows from left to right.

The JSON is that of Grafana 11 and 12 (schema version 39). A panel is a map without place and id; `dashboard` gives it both.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

PROMETHEUS: Final = {"type": "prometheus", "uid": "${prometheus}"}
TEMPO: Final = {"type": "tempo", "uid": "${tempo}"}
_COLUMNS: Final = 24
_SCHEMA_VERSION: Final = 39
# The rest are options in which nothing differs from panel to panel; Grafana's schema wants every one of them said.
_CELLS: Final = {"filterable": True, "align": "auto", "inspect": False}
_TABLE: Final = {"showHeader": True, "cellHeight": "sm", "frameIndex": 0}
_STAT: Final = {
    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    "graphMode": "area",
    "colorMode": "value",
    "textMode": "auto",
    "justifyMode": "auto",
    "orientation": "auto",
    "wideLayout": True,
    "showPercentChange": False,
    "percentChangeColorMode": "standard",
}
_NOT_CHOSEN: Final = {"text": "", "value": ""}
_OTHERS: Final = {
    "type": "dashboards",
    "title": "Wirespan",
    "tags": ["wirespan"],
    "tooltip": "The other dashboards",
    "icon": "external link",
    "asDropdown": True,
    "keepTime": True,
    "includeVars": False,
    "targetBlank": False,
}


def promql(query: str, legend: str = "", *, now: bool = False) -> Json:
    """A PromQL query; `now` for its value at the end of the time range alone."""
    how: Json = {"instant": True, "format": "table"} if now else {"range": True}
    return {"datasource": PROMETHEUS, "expr": query, "legendFormat": legend or "__auto", **how}


def traceql(query: str, *, limit: int = 100) -> Json:
    """A TraceQL query. One that ends in a metrics function gives lines, another gives the spans that it finds."""
    how = {"queryType": "traceql", "metricsQueryType": "range", "limit": limit, "spss": 10, "tableType": "spans", "filters": []}
    return {"datasource": TEMPO, "query": query, **how}


def timeseries(title: str, *queries: Json, unit: str = "short", about: str = "", width: int = 12, stack: bool = False) -> Json:
    """Lines over time; stacked areas where the sum means something."""
    custom: Json = {"fillOpacity": 10, "showPoints": "never", "lineWidth": 1}
    if stack:
        custom |= {"fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}}
    return _panel("timeseries", title, queries, (width, 8), about) | {
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {
            "legend": {"displayMode": "table", "placement": "right", "calcs": ["lastNotNull", "max"], "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def stat(
    title: str, query: Json, *, unit: str = "short", about: str = "", width: int = 4, bad_above: float | None = None
) -> Json:
    """One number, red above `bad_above`."""
    steps: list[Json] = [{"color": "green" if bad_above is not None else "text", "value": None}]
    if bad_above is not None:
        steps.append({"color": "red", "value": bad_above})
    return _panel("stat", title, (query,), (width, 4), about) | {
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}, "noValue": "0"},
            "overrides": [],
        },
        "options": _STAT,
    }


def spans(title: str, query: str, *, about: str = "", width: int = 12) -> Json:
    """The spans that a query finds, each a link to its trace."""
    return _panel("table", title, (traceql(query, limit=50),), (width, 8), about) | {
        "fieldConfig": {"defaults": {"custom": _CELLS}, "overrides": []},
        "options": _TABLE,
    }


def table(title: str, *queries: Json, columns: dict[str, str], units: dict[str, str], link: Json, width: int = 12) -> Json:
    """Instant values of several PromQL queries side by side, joined by their labels.

    `columns` renames them, `units` are those of columns by their new names, and each cell of these has the `link`.
    """
    overrides = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "unit", "value": unit}, {"id": "links", "value": [link]}],
        }
        for name, unit in units.items()
    ]
    return _panel("table", title, queries, (width, 10)) | {
        "fieldConfig": {"defaults": {"custom": _CELLS}, "overrides": overrides},
        "options": _TABLE,
        "transformations": [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": columns}},
        ],
    }


def service_map(title: str, *, about: str, width: int = 24) -> Json:
    """Tempo's service graph: who talks to whom."""
    query: Json = {"datasource": TEMPO, "queryType": "serviceMap", "limit": 20, "tableType": "traces", "filters": []}
    return _panel("nodeGraph", title, (query,), (width, 14), about) | {"options": {}}


def row(title: str) -> Json:
    """A heading."""
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": _COLUMNS, "h": 1}}


def text(markdown: str, *, width: int = 24, height: int = 3) -> Json:
    """Words."""
    return _panel("text", "", (), (width, height)) | {"options": {"mode": "markdown", "content": markdown}, "transparent": True}


def label_values(name: str, label: str, query: str) -> Json:
    """A variable to choose among a Prometheus label's values, several at once."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": PROMETHEUS,
        "query": {"query": query, "refId": name, "qryType": 5},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "options": [],
    }


def textbox(name: str, label: str, default: str) -> Json:
    """A variable to type in."""
    current = {"text": default, "value": default}
    return {"type": "textbox", "name": name, "label": label, "query": default, "current": current, "options": [current]}


def dashboard(uid: str, title: str, about: str, panels: list[Json], variables: list[Json] | None = None) -> Json:
    """A dashboard of these panels. `uid` stays the same for good: links lead to it."""
    sources = [_source("tempo", "Tempo"), _source("prometheus", "Prometheus")]
    return {
        "uid": uid,
        "title": title,
        "description": about,
        "tags": ["wirespan"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [*sources, *(variables or [])]},
        "links": [_OTHERS],
        "annotations": {"list": []},
        "panels": _placed(panels),
    }


def _panel(kind: str, title: str, queries: tuple[Json, ...], size: tuple[int, int], about: str = "") -> Json:
    targets = [{"refId": chr(ord("A") + number), **query} for number, query in enumerate(queries)]
    panel: Json = {"type": kind, "title": title, "targets": targets, "gridPos": {"w": size[0], "h": size[1]}}
    if queries:
        panel["datasource"] = queries[0]["datasource"]
    if about:
        panel["description"] = about
    return panel


def _placed(panels: list[Json]) -> list[Json]:
    """Put panels beside each other while there is room, then below the highest of the line."""
    placed, x, y, line_height = [], 0, 0, 0
    for number, panel in enumerate(panels, 1):
        width, height = panel["gridPos"]["w"], panel["gridPos"]["h"]
        if x + width > _COLUMNS:
            x, y, line_height = 0, y + line_height, 0
        placed.append(panel | {"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}})
        x, line_height = x + width, max(line_height, height)
    return placed


def _source(kind: str, label: str) -> Json:
    return {
        "type": "datasource",
        "name": kind,
        "label": label,
        "query": kind,
        "refresh": 1,
        "current": _NOT_CHOSEN,
        "options": [],
    }
