"""The compiled C of capture (bpf/replay/replay.c and what it includes), loaded by whoever calls into it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import bpf
from services.capture.errors import CaptureError

Signatures: TypeAlias = Mapping[str, tuple[Any, tuple[Any, ...]]]
"""Function -> what it returns and takes, as ctypes has it."""

_COMPILE_ANEW: Final = "reinstall wirespan to compile it (in a checkout: make setup)"


def other_version(detail: object) -> CaptureError:
    """What to raise where the library does not go with this code."""
    return CaptureError(f"the replay library is of another version ({detail}); {_COMPILE_ANEW}")


def load_library(signatures: Signatures) -> Any:
    """Return the library with typed functions. Raises CaptureError where it is missing, or of another version."""
    try:
        found = ctypes.CDLL(str(bpf.REPLAY_LIBRARY))
    except OSError as error:
        raise CaptureError(f"the replay library cannot be loaded ({error}); {_COMPILE_ANEW}") from error
    try:
        for name, (result, arguments) in signatures.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise other_version(error) from error
    return found
