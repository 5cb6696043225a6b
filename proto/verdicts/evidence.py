"""Which rule decided about a record, and by which numbers: the table read backwards, for people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from proto.flow_batch import Array, FlowBatch
from proto.verdicts.rules import RULES, Rule
from proto.verdicts.terms import Condition, Term, Thresholds, View


@dataclass(frozen=True, slots=True)
class Evidence:
    """A condition of the rule that held. What has numbers compares `value` with `bound`."""

    text: str
    """As docs/diagnosis.md has it."""
    name: str = ""
    value: int = 0
    sign: str = ""
    bound: int = 0
    nanoseconds: bool = False


def evidence(record: FlowBatch, thresholds: Thresholds | None = None) -> tuple[Evidence, ...]:
    """Return what decided about the one record of a batch; nothing where its verdict is of other rules than these."""
    view = View(record, thresholds or Thresholds())
    verdict, measure = (int(record.column(name)[0]) for name in ("verdict", "verdict_measure"))
    rule = next((rule for rule in RULES if (rule.verdict, rule.measure) == (verdict, measure) and _holds(rule, view)), None)
    return tuple(_evidence(condition, view) for condition in rule.when if condition.text) if rule else ()


def _holds(rule: Rule, view: View) -> bool:
    return all(bool(np.all(condition.holds(view))) for condition in rule.when)


def _evidence(condition: Condition, view: View) -> Evidence:
    if condition.of is None:
        return Evidence(condition.text)
    bound = condition.bound.values(view) if isinstance(condition.bound, Term) else np.array(condition.bound)
    value, against = _only(condition.of.values(view)), _only(bound)
    return Evidence(condition.text, condition.of.text, value, condition.sign, against, condition.of.nanoseconds)


def _only(values: Array) -> int:
    return int(values.reshape(-1)[0])
