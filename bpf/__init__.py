"""The C of Wirespan as package data: the flow engine, its kernel program's headers, and the libraries that are built of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

SOURCE_DIRECTORY: Final = Path(__file__).parent
"""Where engine/, its hosts tap/ and replay/, and include/ lie."""

REPLAY_LIBRARY: Final = SOURCE_DIRECTORY / "_replay.so"
"""The shared library of replay/replay.c, which the package's build compiles."""

OTLP_LIBRARY: Final = SOURCE_DIRECTORY / "_otlp.so"
"""That of otlp/scan.c, likewise."""

PROGRAMS: Final = SOURCE_DIRECTORY / "_tap.bpf"
"""The programs of tap/socket_tap.c, which the package's build compiles where it has bcc."""

RECORDER_LIBRARY: Final = SOURCE_DIRECTORY / "_record.so"
"""That of tap/compiling/record.c, by which they are compiled."""
