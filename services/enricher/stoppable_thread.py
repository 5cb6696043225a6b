"""A thread that ends when it is asked to, and of which can be told whether it ended by itself."""

from __future__ import annotations

import threading


class StoppableThread(threading.Thread):
    """A daemon thread whose `run` looks at `_stopping`."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._stopping = threading.Event()

    @property
    def broken(self) -> bool:
        """Whether it has begun and has ended although nobody asked it to."""
        # Asked for last: a thread that is seen to have ended on being asked to was asked before.
        return self.ident is not None and not self.is_alive() and not self._stopping.is_set()

    def stop(self) -> None:
        """Ask the thread to end; it does so soon."""
        self._stopping.set()
