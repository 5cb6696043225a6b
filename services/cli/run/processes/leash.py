"""Run a command that cannot outlive its parent: `python leash.py PARENT_PID COMMAND [ARGUMENT...]`.

A program of its own rather than a hook between fork and exec: the parent has threads by then, and Python code run in the
child of a process with threads can hang on a lock that no thread is left to release.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1
"""From linux/prctl.h: the signal a process gets when its parent dies. It survives exec."""


def main() -> None:
    """Ask the kernel to kill this process when its parent dies, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    # The parent may have died before the kernel was asked; then nobody would ever be told.
    if os.getppid() == parent:
        os.execv(command[0], command)  # noqa: S606  # a command without a shell is the point
    sys.exit("the parent is gone")


if __name__ == "__main__":
    main()
