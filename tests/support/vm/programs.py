"""Programs for guests, compiled outside by the system's bcc, by the key that the stand-in for bcc looks for inside."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import bpf
from bpf.tap.loader import with_includes
from services.capture.live.tap.loader import SYSTEM_PYTHON
from tests.support.vm.inside.stand_in_bcc import known_outside, program_key

_DUMP: Final = Path(__file__).with_name("dump_programs.py")


def compile_tap(sets: Iterable[Sequence[str]]) -> dict[str, bytes]:
    """Compile the socket tap with each of these sets of defines; return the compiled programs by key."""
    text = with_includes(bpf.SOURCE_DIRECTORY / "tap" / "socket_tap.c")
    return dict(compile_text(text, tuple(defines)) for defines in sets)


@functools.cache
def compile_text(text: str, defines: tuple[str, ...] = ()) -> tuple[str, bytes]:
    """Compile a source, once for all kernels that it is compiled for in the same way; return its key and what it became."""
    flags = [known_outside(f"-D{define}") for define in defines]
    done = subprocess.run(
        [SYSTEM_PYTHON, "-I", _DUMP, *flags],
        env={**os.environ, "BCC_KERNEL_SOURCE": str(bpf.SOURCE_DIRECTORY)},
        input=text.encode(), check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    return program_key(text, flags), done.stdout
