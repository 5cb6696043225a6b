"""Asks the C compiler how it lays out what bpf/ declares."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

import bpf


def printed_by_c(declarations: str, statements: Sequence[str], folder: Path) -> dict[str, int]:
    """Run C `statements` that print lines of a name and a value, after `declarations`. Skips where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler `cc`")
    source, program = folder / "layout.c", folder / "layout"
    head = "#include <linux/types.h>\n#include <stddef.h>\n#include <stdio.h>\n"
    source.write_text("\n".join([head, declarations, "int main(void) {", *statements, "return 0; }\n"]))
    subprocess.run([compiler, f"-I{bpf.SOURCE_DIRECTORY}", "-o", program, source], check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}
