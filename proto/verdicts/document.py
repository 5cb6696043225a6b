"""The rules as docs/diagnosis.md has them."""

from __future__ import annotations

from proto.verdicts.advice import ADVICE
from proto.verdicts.names import MEANINGS, MEASURE_ATTRIBUTES
from proto.verdicts.pairs import PAIR_RULES
from proto.verdicts.rules import RULES


def table() -> str:
    """Return the rules as a Markdown table, those of a verdict in the order in which they are asked."""
    lines = ["| | `flow.verdict` | `flow.verdict.measure` | where all of this holds |", "|---|---|---|---|"]
    for number, rule in enumerate(RULES, start=1):
        measure = f"`{MEASURE_ATTRIBUTES[rule.measure]}`" if rule.measure else ""
        when = ", ".join(condition.text for condition in rule.when if condition.text)
        lines.append(f"| {number} | `{rule.verdict.name.lower()}` | {measure} | {when} |")
    return "\n".join(lines)


def pairs() -> str:
    """Return what both ends together say as a Markdown table."""
    lines = ["| | where both ends have told | together they say |", "|---|---|---|"]
    for number, rule in enumerate(PAIR_RULES, start=1):
        said = f"`{rule.verdict.name.lower()}`" if rule.verdict else "what the server says"
        lines.append(f"| {number} | {rule.text} | {said} |")
    return "\n".join(lines)


def advice() -> str:
    """Return what each verdict says, by what decided it, and what to look at next as a Markdown table."""
    lines = ["| `flow.verdict` | by | in a sentence | what to look at next |", "|---|---|---|---|"]
    for (verdict, measure), each in ADVICE.items():
        by = f"`{MEASURE_ATTRIBUTES[measure]}`" if measure else ""
        section = f" ([more](#{each.section}))" if each.section else ""
        lines.append(f"| `{verdict.name.lower()}` | {by} | {each.sentence} | {each.next}{section} |")
    return "\n".join(lines)


def meanings() -> str:
    """Return what each verdict says as a Markdown table."""
    lines = ["| `flow.verdict` | meaning |", "|---|---|"]
    lines += [f"| `{verdict.name.lower()}` | {meaning} |" for verdict, meaning in MEANINGS.items()]
    return "\n".join(lines)
