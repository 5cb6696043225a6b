"""A replay while it runs: the services, their progress, and the account of every packet, record and span."""

from __future__ import annotations

from rich.console import Console

from services.cli.errors import ServiceFailedError
from services.cli.interruption import Interruption
from services.cli.run.at_once import NOT_READ_WHOLE
from services.cli.run.ledger import Ledger
from services.cli.run.pipeline import Pipeline, Plan, running_pipeline
from services.cli.run.shown.ledger_table import ledger_table
from services.cli.run.shown.progress_view import ProgressView
from services.cli.views.printable import printable

__all__ = ["Plan", "replaying", "report"]


async def replaying(plan: Plan, asked: Interruption) -> int:
    """Run the services until every span is delivered, and print the account; return the exit status."""
    console = Console(stderr=True, highlight=False)
    with ProgressView(console) as view:
        async with running_pipeline(plan, asked, say=view.say) as pipeline:
            try:
                delivered = await asked.unless_asked(pipeline.until_delivered(view.show))
            except ServiceFailedError:
                await _account(pipeline, view, console)
                raise
            status = await _account(pipeline, view, console)
            if delivered:
                await pipeline.stop_services()
    return status if delivered else asked.exit_status


async def _account(pipeline: Pipeline, view: ProgressView, console: Console) -> int:
    """Print the ledger and what is wrong with it; return the exit status that says the same."""
    ledger = await pipeline.ledger()
    view.close()
    return report(ledger, str(pipeline.plan.destination), console)


def report(ledger: Ledger, destination: str, console: Console) -> int:
    """Print the ledger and what is wrong with it; return the exit status that says the same."""
    Console(highlight=False).print(ledger_table(ledger, destination))
    for fault in ledger.faults():
        console.print(fault, style="red", markup=False, soft_wrap=True)
    for fault in ledger.progress.faults:
        console.print(printable(fault), style="red", markup=False, soft_wrap=True)
    if not ledger.complete:
        return 1
    return NOT_READ_WHOLE if ledger.progress.faults else 0
