"""An explanation in lines: of `wirespan explain`, and of the screen of `wirespan up`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from proto.verdicts.names import Verdict
from services.cli.explain.explanation import Explanation
from services.cli.views import units
from services.cli.views.printable import printable


def lines(each: Explanation) -> Iterator[Text]:
    """Yield them: who, what happened, what was wrong, how that is known, what to look at, how to find more."""
    yield Text(printable(each.head), style="bold")
    for step in each.steps:
        after = "" if step.after_ns is None else f"+{units.duration(step.after_ns)}"
        yield Text(printable(f"  {after:<10} {step.text}"))
    style = "green" if each.verdict == Verdict.OK else "yellow"
    yield Text.assemble("verdict  ", (f"{each.verdict.name.lower()}: {each.advice.sentence}", f"bold {style}"))
    for line in each.because:
        yield Text(printable(f"because  {line}"))
    if each.next:
        yield Text(printable(f"next     {each.next}"))
    for where, query in each.queries.items():
        yield Text(printable(f"more     {where}: {query}"))
