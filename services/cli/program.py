"""How this command is called, for the lines that tell a person what to type: as printed, they must work."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

_NAME: Final = "wirespan"
_SOURCES: Final = str(Path(__file__).parents[2])


def program() -> str:
    """Return what to type for `wirespan`: that where a shell finds this one under it, else its path, quoted."""
    beside = Path(sys.executable).with_name(_NAME)
    found = shutil.which(_NAME)
    if found is not None and beside.exists() and Path(found).samefile(beside):
        return _NAME
    if beside.exists():
        return shlex.quote(str(beside))
    return f"env PYTHONPATH={shlex.quote(_SOURCES)} {shlex.quote(sys.executable)} -m services.cli"
