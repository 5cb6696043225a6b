"""The words on the command line: which are files, and what the others ask for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from services.cli.run.capture_files import check_capture

_STANDARD_INPUT: Final = "-"
_NAME_OF_FILE: Final = re.compile(r".*\.(?:pcap|pcapng|cap|jsonl)(?:\.(?:gz|zst))?", re.DOTALL | re.IGNORECASE)
_PATH: Final = re.compile(r"(?:~|\.{0,2})/.*|.*/|[^/\s]+/[^/\s]+/\S+", re.DOTALL)
"""What no end of a pair can be: that is a name, or a namespace and a name with one / between them."""
_BETWEEN: Final = re.compile(r"\s(?:to|->)\s")


def files_and_question(words: Sequence[str]) -> tuple[list[Path], str]:
    """Return both. Raises NotACaptureError for what is meant as a file and is none: the bus would be asked for it in vain."""
    files = [Path(word) for word in words if _is_file(word)]
    others = [word for word in words if not _is_file(word)]
    asked = " ".join(others)
    # A folder may have the name of a service: where there is something to look at already, or two ends, it is the service.
    named = bool(files or _BETWEEN.search(asked))
    for word in others:
        if _is_meant_as_file(word) or (not named and Path(word).is_dir()):
            check_capture(Path(word))
    return files, asked


def _is_file(word: str) -> bool:
    """Pipes are files too, as a shell's `<(...)` is one."""
    path = Path(word)
    return word == _STANDARD_INPUT or (path.exists() and not path.is_dir())


def _is_meant_as_file(word: str) -> bool:
    return bool(_NAME_OF_FILE.fullmatch(word) or _PATH.fullmatch(word)) and not _BETWEEN.search(word)
