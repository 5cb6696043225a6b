"""Capture files shown at once: read and enriched by processes of their own, one piped into the other, without a bus.

They are forked where they can be, since somebody waits: what both need is loaded once, which is half of what they take.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NoReturn

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
        steps: list[_Step] = []
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
            for step in steps:
                step.output.close()
            for step in steps:
                step.end()
        self._raise_failure(steps)

    def _start(self, steps: list[_Step], module: str, *arguments: str, source: IO[bytes] | None = None) -> IO[bytes]:
        environ = {"OPENBLAS_NUM_THREADS": "1"}
        if self._kube_snapshot is not None:
            environ["WIRESPAN_ENRICHER_KUBE_SNAPSHOT"] = str(self._kube_snapshot.absolute())
        # What other threads hold at the moment of a fork, nobody would let go of.
        start = _forked if threading.active_count() == 1 else _spawned
        steps.append(start(module, arguments, environ, source))
        if source is not None:
            source.close()  # the next process's only: it must hear when that one ends
        return steps[-1].output

    def _raise_failure(self, steps: Sequence[_Step]) -> None:
        for step in steps:
            status, lines = step.end()
            if status == NOT_READ_WHOLE:
                self.faults = lines
            elif status:
                raise _ERRORS.get(status, CliError)(lines[-1] if lines else f"reading ended with status {status}")


@dataclass
class _Step:
    """A process, what it writes, and what it says."""

    output: IO[bytes]
    said: IO[bytes]
    wait: Callable[[], int]
    ended: tuple[int, list[str]] | None = None

    def end(self) -> tuple[int, list[str]]:
        """Wait until it has ended; return its exit status and what it said. May be called again."""
        if self.ended is None:
            status = self.wait()
            with self.said:
                self.said.seek(0)
                self.ended = status, self.said.read().decode(errors="replace").splitlines()
        return self.ended


def _spawned(module: str, arguments: Sequence[str], environ: Mapping[str, str], source: IO[bytes] | None) -> _Step:
    path = os.pathsep.join([_SOURCES, *filter(None, [os.environ.get("PYTHONPATH")])])
    said = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has ended
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", "-m", module, *arguments],
        env={**os.environ, **environ, "PYTHONPATH": path},
        stdin=source or subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=said,
    )
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    return _Step(process.stdout, said, process.wait)


def _forked(module: str, arguments: Sequence[str], environ: Mapping[str, str], source: IO[bytes] | None) -> _Step:
    said = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has ended
    reading, writing = os.pipe()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()  # what waits there would be written by both
    process = os.fork()
    if not process:
        _become(module, arguments, environ, {0: source.fileno() if source else -1, 1: writing, 2: said.fileno()}, reading)
    os.close(writing)
    return _Step(os.fdopen(reading, "rb"), said, lambda: os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def _become(
    module: str, arguments: Sequence[str], environ: Mapping[str, str], streams: Mapping[int, int], others: int
) -> NoReturn:
    """Run a module as `python -m` does, in a process that was forked for it. Whatever happens, it ends here."""
    status = 1
    try:
        os.environ.update(environ)
        for number, descriptor in streams.items():
            os.dup2(os.open(os.devnull, os.O_RDONLY) if descriptor < 0 else descriptor, number)
        for descriptor in {others, *streams.values()} - {-1, *streams}:
            os.close(descriptor)  # one's own end of the other side's would keep it from hearing that nobody is there
        sys.stdin, sys.stdout, sys.stderr = (open(number, mode, closefd=False) for number, mode in enumerate("rww"))  # noqa: SIM115
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:  # noqa: BLE001 - as an interpreter does at its end
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)
