"""The rules as docs/diagnosis.md has them."""

from __future__ import annotations

from proto.verdicts.names import MEANINGS, MEASURE_ATTRIBUTES
from proto.verdicts.rules import RULES


def table() -> str:
    """Return the rules as a Markdown table, those of a verdict in the order in which they are asked."""
    lines = ["| | `flow.verdict` | `flow.verdict.measure` | where all of this holds |", "|---|---|---|---|"]
    for number, rule in enumerate(RULES, start=1):
        measure = f"`{MEASURE_ATTRIBUTES[rule.measure]}`" if rule.measure else ""
        when = ", ".join(condition.text for condition in rule.when if condition.text)
        lines.append(f"| {number} | `{rule.verdict.name.lower()}` | {measure} | {when} |")
    return "\n".join(lines)


def meanings() -> str:
    """Return what each verdict says as a Markdown table."""
    lines = ["| `flow.verdict` | meaning |", "|---|---|"]
    lines += [f"| `{verdict.name.lower()}` | {meaning} |" for verdict, meaning in MEANINGS.items()]
    return "\n".join(lines)
