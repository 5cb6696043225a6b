"""Capture files shown at once: read and enriched by processes of their own, one piped into the other, without a bus."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from proto.errors import DecodeError
from proto.flow_batch import FlowBatch, decode
from proto.frames import read_frames
from proto.verdicts.rules import judged
from services.cli.errors import CliError, NotACaptureError, UsageError

NOT_READ_WHOLE: Final = 4
"""Exit status where all that could be read was, and not all could be."""
_SOURCES: Final = str(Path(__file__).parents[3])
_ERRORS: Final[dict[int, type[CliError]]] = {2: UsageError, 3: NotACaptureError}


class CaptureRecords:
    """The records of capture files, with names where there is a snapshot of their cluster. Commands know the services by what
    they run: this runs capture's and the enricher's code as they do.
    """

    def __init__(self, files: Sequence[Path], kube_snapshot: Path | None) -> None:
        self._files = files
        self._kube_snapshot = kube_snapshot
        self.faults: list[str] = []
        """What could not be read of the files, a line for each, once all is read."""

    def batches(self) -> Iterator[FlowBatch]:
        """Yield the records, in the order in which they came to be. Raises CliError where it is no capture or no snapshot."""
        steps: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
        try:
            source = self._start(steps, "services.capture.replay.export", *map(str, self._files))
            if self._kube_snapshot is not None:
                source = self._start(steps, "services.enricher.stream", source=source)
            found = map(decode, read_frames(source))
            yield from map(judged, found) if self._kube_snapshot is None else found
        except DecodeError:
            self._raise_failure(steps)
            raise
        finally:
            for process, _ in steps:
                if process.stdout is not None:
                    process.stdout.close()
                process.wait()
        self._raise_failure(steps)

    def _start(
        self,
        steps: list[tuple[subprocess.Popen[bytes], IO[bytes]]],
        module: str,
        *arguments: str,
        source: IO[bytes] | None = None,
    ) -> IO[bytes]:
        environ = os.environ | {"PYTHONPATH": os.pathsep.join([_SOURCES, *filter(None, [os.environ.get("PYTHONPATH")])])}
        environ["OPENBLAS_NUM_THREADS"] = "1"
        if self._kube_snapshot is not None:
            environ["WIRESPAN_ENRICHER_KUBE_SNAPSHOT"] = str(self._kube_snapshot.absolute())
        said = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has ended
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", module, *arguments],
            env=environ,
            stdin=source or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        steps.append((process, said))
        if source is not None:
            source.close()  # the next process's only: it must hear when that one ends
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        return process.stdout

    def _raise_failure(self, steps: Sequence[tuple[subprocess.Popen[bytes], IO[bytes]]]) -> None:
        for process, said in steps:
            status = process.wait()
            with said:
                said.seek(0)
                lines = said.read().decode(errors="replace").splitlines()
            if status == NOT_READ_WHOLE:
                self.faults = lines
            elif status:
                raise _ERRORS.get(status, CliError)(lines[-1] if lines else f"reading ended with status {status}")
