"""Child processes of a guest's process 1: forks, since importing everything again would take seconds."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import traceback
from collections.abc import Callable
from typing import Any

_CAPABILITY_VERSION_3 = 0x20080522
_NUMBERS = {"x86_64": (125, 126), "aarch64": (90, 91)}
"""capget and capset."""
_libc = ctypes.CDLL(None, use_errno=True)


def in_child(work: Callable[[], Any]) -> Any:
    """Run `work` in a fork and return what it returned. What it does to its process ends with it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            answer = {"result": work()}
        except BaseException:  # noqa: BLE001 - told to the parent
            answer = {"error": traceback.format_exc()}
        with os.fdopen(writing, "w") as told:
            json.dump(answer, told)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        answer = json.load(told)
    os.waitpid(child, 0)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["result"]


def without_capability(number: int) -> None:
    """Take a capability from this process and what it will start: effective, permitted, inheritable and bounding."""
    get, put = _NUMBERS[os.uname().machine]
    _libc.prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    data = ctypes.create_string_buffer(24)
    if _libc.syscall(get, header, data):
        raise OSError(ctypes.get_errno(), "capget")
    words = [word & ~(1 << number) if at < 3 else word for at, word in enumerate(struct.unpack("=6I", data.raw))]
    if _libc.syscall(put, header, ctypes.create_string_buffer(struct.pack("=6I", *words))):
        raise OSError(ctypes.get_errno(), "capset")
