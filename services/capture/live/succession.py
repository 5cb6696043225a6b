"""How a capture takes over from the one that a rollout replaces, while both see the node's sockets.

The one that comes attaches, and stands in line behind the other (services/runtime/host/line.py). From then on both go by
services/capture/flows/share.py: what each tells follows from who stands before and behind.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path

import structlog

from services.capture.flows.share import EVERYTHING, Share, behind
from services.runtime.host.line import Line

logger = structlog.get_logger()


class Succession(AbstractContextManager["Succession"]):
    """What this capture tells, now. To be entered when it is attached: `now_ns` is then."""

    def __init__(self, root: Path, name: str, now_ns: int) -> None:
        """`root`: of the cgroup2 tree. Without a name, or where there can be no line, everything is told here."""
        self.share = EVERYTHING
        """As of the last look."""
        self._line: Line | None = None
        self._is_left = False
        self._seen_waiting_ns = now_ns
        if name:
            try:
                self._line = Line(root / "cgroup.procs", name)
                since_ns = self._line.join(now_ns)
            except OSError as error:
                logger.warning("succession.unavailable", error=str(error), effect="in a rollout, connections are told twice")
                self.close()
            else:
                self.share = EVERYTHING if self._line.is_first else behind(since_ns)

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def look(self) -> Share:
        """Return what is told here from now on."""
        if self._line is not None and not self._is_left:
            self.share = self._share(self._line, self.share)
        return self.share

    def leave(self, until_ns: int) -> None:
        """Let the next one have what this one does not see from then on. What is told here stays as it was at the last look."""
        if self._line is not None and not self._is_left:
            self._line.leave(until_ns)
            self._is_left = True

    def close(self) -> None:
        """As `leave`, of one that does not know until when it saw."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _share(self, line: Line, before: Share) -> Share:
        rest_since_ns = before.rest_since_ns
        if before.waits:
            if line.is_first:
                # One that was killed went between the two looks: what began before the first of them is taken for its own.
                rest_since_ns = line.left_ns or self._seen_waiting_ns
                logger.info("capture.took_over")
            else:
                self._seen_waiting_ns = time.monotonic_ns()
        until_ns = line.next_since_ns
        return Share(before.since_ns, rest_since_ns, *(() if until_ns is None else (until_ns,)))
