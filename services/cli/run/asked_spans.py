"""Spans of applications for a replay: what the enricher would ask captures about them, in a file."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from services.cli.errors import CliError, UsageError

_CANNOT_BE_USED: Final = 2
_SOURCES: Final = str(Path(__file__).parents[3])


@contextlib.contextmanager
def questions_about(spans: Sequence[Path], kube_snapshot: Path | None) -> Iterator[Path | None]:
    """Yield the file while the context lasts; None where there are no spans. Raises CliError for a file that has none."""
    if not spans:
        yield None
        return
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([_SOURCES, *filter(None, [os.environ.get("PYTHONPATH")])])}
    if kube_snapshot is not None:
        environ["WIRESPAN_ENRICHER_KUBE_SNAPSHOT"] = str(kube_snapshot.absolute())
    command = [sys.executable, "-P", "-m", "services.enricher.ask", *(str(each.absolute()) for each in spans)]
    with tempfile.NamedTemporaryFile(prefix="wirespan-asked-") as questions:
        run = subprocess.run(command, env=environ, stdout=questions, stderr=subprocess.PIPE, check=False)  # noqa: S603 - ours
        if run.returncode:
            said = run.stderr.decode(errors="replace").splitlines()
            error = UsageError if run.returncode == _CANNOT_BE_USED else CliError
            raise error(said[-1] if said else f"reading spans ended with status {run.returncode}")
        yield Path(questions.name)
