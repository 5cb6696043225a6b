"""The parts of the documentation that are made from tables in the code. `make docs` writes them, a test compares them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from deploy.grafana.source.dashboards import DASHBOARDS, dashboard_text
from deploy.opensearch import source as opensearch
from proto.asked.columns import ASKED
from proto.columns import ENRICHED, EXCHANGE, FILE, NAMES, NAT, RAW, SET_UP, SOCKET, TLS, VERDICT, Column
from proto.verdicts import document as verdicts_document
from services.capture.settings import CaptureSettings
from services.cli.plan.figures import FIGURES
from services.cli.plan.model import Load, plan
from services.cli.plan.show import costs, rows
from services.enricher.settings import EnricherSettings
from services.exporter.delivery.environment import VARIABLES
from services.exporter.metrics import document as metrics_document
from services.exporter.settings import ExporterSettings
from services.exporter.spans import document as attributes_document
from services.runtime.settings import describe
from tests.chaos import results
from tests.data.scenario import conversation_table
from tests.support import platforms
from tests.support.kubernetes.helm_values import schema_text, values_table

ROOT = Path(__file__).parents[3]


def column_table(columns: tuple[Column, ...]) -> str:
    """The columns as a Markdown table, enumerations spelt out."""
    lines = ["| column | type | kind | unit | meaning |", "|---|---|---|---|---|"]
    for column in columns:
        values = ", ".join(f"{member.value} {member.name.lower()}" for member in column.enum or ())
        meaning = f"{column.meaning} ({values})" if values else column.meaning
        kind = column.dtype.replace("|", "\\|")
        lines.append(f"| `{column.name}` | `{kind}` | {column.kind.value} | {column.unit} | {meaning} |")
    return "\n".join(lines)


def asked_table() -> str:
    """The columns of a question as a Markdown table."""
    lines = ["| column | type | meaning |", "|---|---|---|"]
    for column in ASKED:
        kind = column.dtype.str.replace("|", "\\|")
        lines.append(f"| `{column.name}` | `{kind}` | {column.meaning} |")
    return "\n".join(lines)


SERVICES: dict[str, type[msgspec.Struct]] = {
    "capture": CaptureSettings,
    "enricher": EnricherSettings,
    "exporter": ExporterSettings,
}


def settings_table(service: str) -> str:
    """A service's own settings as a Markdown table; with `groups`, those that services share, each once."""
    own = service != "groups"
    variables = {
        variable.name: variable
        for name, struct_type in SERVICES.items()
        for variable in describe(struct_type, f"WIRESPAN_{name.upper()}_")
        if (variable.name.startswith(f"WIRESPAN_{service.upper()}_") if own else not _is_own(variable.name))
    }
    lines = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for variable in variables.values():
        default = f"`{variable.default}`" if variable.default not in {"", "required"} else variable.default
        lines.append(f"| `{variable.name}` | {variable.type} | {default} | {variable.description} |")
    return "\n".join(lines)


def _is_own(variable: str) -> bool:
    return any(variable.startswith(f"WIRESPAN_{service.upper()}_") for service in SERVICES)


def otlp_table() -> str:
    """The OpenTelemetry variables of the exporter as a Markdown table."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, (default, meaning) in VARIABLES.items():
        lines.append(f"| `OTEL_EXPORTER_OTLP_TRACES_{name}` | {default} | {meaning} |")
    return "\n".join(lines)


PLANNED_NODES = (10, 100, 1_000, 10_000)
PLANNED_FLOWS = 50


def plans_table() -> str:
    """What `wirespan plan` says of clusters of some sizes as a Markdown table."""
    loads = [Load(nodes=nodes, flows_per_node=PLANNED_FLOWS) for nodes in PLANNED_NODES]
    plans = [dict(rows(plan(load))) for load in loads]
    lines = [f"| nodes | {' | '.join(f'{nodes:,}' for nodes in PLANNED_NODES)} |", "|---" * (len(plans) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(made[name] for made in plans)} |" for name in plans[0]]
    return "\n".join(lines)


def presets_table() -> str:
    """What each preset sends of the same clusters as a Markdown table."""
    loads = [Load(nodes=nodes, flows_per_node=PLANNED_FLOWS) for nodes in PLANNED_NODES]
    lines = [f"| preset | {' | '.join(f'{nodes:,} nodes' for nodes in PLANNED_NODES)} |", "|---" * (len(loads) + 1) + "|"]
    of_each = [costs(load) for load in loads]
    lines += [f"| `{same[0][0]}` | {' | '.join(cost for _, cost, _ in same)} |" for same in zip(*of_each, strict=True)]
    return "\n".join(lines)


def figures_table() -> str:
    """What `wirespan plan` computes with as a Markdown table."""
    lines = ["| figure | value | unit | from |", "|---|---|---|---|"]
    rows = ((name.replace("_", " "), f"{each.value:,.10g}", each.unit, each.source) for name, each in FIGURES.items())
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


WHOLE: dict[str, Callable[[], str]] = {
    "docs/attributes.md": attributes_document.markdown,
    "docs/platforms.md": platforms.markdown,
    "docs/reliability.md": results.markdown,
    **{f"deploy/grafana/{name}.json": partial(dashboard_text, name) for name in DASHBOARDS},
    "deploy/opensearch/index-template.json": opensearch.template_text,
    "deploy/opensearch/saved-queries.ndjson": opensearch.queries_text,
    "deploy/helm/wirespan/values.schema.json": schema_text,
}
"""Documents that are made from code altogether."""

SECTIONS: dict[tuple[str, str], Callable[[], str]] = {
    ("proto/README.md", "raw columns"): lambda: column_table(RAW),
    ("proto/README.md", "socket columns"): lambda: column_table(SOCKET),
    ("proto/README.md", "nat columns"): lambda: column_table(NAT),
    ("proto/README.md", "name columns"): lambda: column_table(NAMES + TLS),
    ("proto/README.md", "file columns"): lambda: column_table(FILE),
    ("proto/README.md", "exchange columns"): lambda: column_table(EXCHANGE),
    ("proto/README.md", "set-up columns"): lambda: column_table(SET_UP),
    ("proto/README.md", "enriched columns"): lambda: column_table(ENRICHED),
    ("proto/README.md", "verdict columns"): lambda: column_table(VERDICT),
    ("proto/README.md", "asked columns"): asked_table,
    ("docs/diagnosis.md", "verdicts"): verdicts_document.meanings,
    ("docs/diagnosis.md", "rules"): verdicts_document.table,
    ("docs/diagnosis.md", "pairs"): verdicts_document.pairs,
    ("docs/diagnosis.md", "advice"): verdicts_document.advice,
    ("docs/metrics.md", "metrics of flows"): metrics_document.markdown,
    ("docs/configuration.md", "groups"): lambda: settings_table("groups"),
    ("docs/configuration.md", "capture"): lambda: settings_table("capture"),
    ("docs/configuration.md", "enricher"): lambda: settings_table("enricher"),
    ("docs/configuration.md", "exporter"): lambda: settings_table("exporter"),
    ("docs/configuration.md", "otlp"): otlp_table,
    ("deploy/helm/wirespan/README.md", "values"): values_table,
    ("docs/scale.md", "plans"): plans_table,
    ("docs/scale.md", "presets"): presets_table,
    ("docs/scale.md", "figures"): figures_table,
    ("tests/data/README.md", "conversations"): conversation_table,
}
"""What stands between the two marks of (document, section)."""


def with_section(text: str, section: str, content: str) -> str:
    """Return the document's text with the named section holding `content`. Raises ValueError where it has no such section."""
    mark = re.compile(rf"(<!-- generated by `make docs`: {re.escape(section)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not mark.search(text):
        raise ValueError(f"no section {section!r}")
    return mark.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def documents() -> list[str]:
    """Every document that is generated or has generated sections."""
    return sorted({*WHOLE, *(name for name, _ in SECTIONS)})


def current(document: str) -> str:
    """Return the document's text with all that is generated made anew."""
    if document in WHOLE:
        return WHOLE[document]()
    text = (ROOT / document).read_text()
    for (name, section), content in SECTIONS.items():
        if name == document:
            text = with_section(text, section, content())
    return text


def main() -> None:
    """Write every document anew."""
    for document in documents():
        (ROOT / document).write_text(current(document))
        sys.stdout.write(f"{document}\n")


if __name__ == "__main__":
    main()
