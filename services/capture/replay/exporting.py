"""The records of capture files, written to a stream of bytes: no bus, and nobody to wait for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from proto.frames import write_frame
from services.capture.errors import CaptureFileError
from services.capture.progress import ProgressReport
from services.capture.replay.reader import ReplayReader
from services.capture.settings import CaptureSettings
from services.runtime.settings import SettingsError, load


def export(files: Sequence[str], output: IO[bytes]) -> int:
    """Write the batches; return the exit code, which `export.py` explains."""
    try:
        settings = load(CaptureSettings, prefix="WIRESPAN_CAPTURE_")
        settings = msgspec.structs.replace(settings, replay_files=tuple(map(Path, files)), replay_loop=False)
        reader = ReplayReader(settings, "export", ProgressReport(None))
        faults: dict[str, None] = {}
        while batches := reader.read():
            for batch in batches:
                write_frame(output, batch.message)
            faults |= dict.fromkeys(reader.faults)
        faults |= dict.fromkeys(reader.faults)
        output.flush()
    except SettingsError as error:
        sys.stderr.writelines(f"{fault}\n" for fault in error.faults)
        return 2
    except CaptureFileError as error:
        sys.stderr.write(f"{error}\n")
        return 3
    except BrokenPipeError:
        return 0  # nobody wants the rest
    sys.stderr.writelines(f"{fault}\n" for fault in faults)
    return 4 if faults else 0
