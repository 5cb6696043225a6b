"""Who talked to whom in capture files, shown at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from services.cli.run.at_once import NOT_READ_WHOLE, CaptureRecords
from services.cli.tap.filters import Condition, FlowFilter
from services.cli.views.conversation_table import conversation_table
from services.cli.views.conversations import summed
from services.cli.views.flow_view import flow_views
from services.cli.views.printable import printable

_WIDEST: Final = 10_000
"""Columns of what is no screen."""


def show_table(files: Sequence[Path], kube_snapshot: Path | None, conditions: Sequence[Condition]) -> int:
    """Show who talked to whom; return the exit status. All of it, and where nobody looks at a screen in full width."""
    source, wanted = CaptureRecords(files, kube_snapshot), FlowFilter(conditions)
    conversations = summed(view for batch in source.batches() for view in flow_views(wanted(batch)))
    console = Console(highlight=False)
    width = console.width if console.is_terminal else None
    if width is None:
        console.width = _WIDEST
    console.print(conversation_table(conversations, width=width, height=None, notes=(), of="in all"))
    for fault in source.faults:
        Console(stderr=True, highlight=False).print(printable(fault), style="red", markup=False, soft_wrap=True)
    return NOT_READ_WHOLE if source.faults else 0
