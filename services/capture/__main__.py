"""`wirespan-capture`: flows to raw batches on the bus.

Taps the sockets of this node, or replays capture files where the settings name some.

Exit status: 0 every batch is stored; 1 something failed, or it could not drain in time; 2 the settings are wrong; 3 a file is
no capture file; 4 this node's sockets cannot be tapped.
"""

from __future__ import annotations

import os
import sys

from services.runtime import footprint

_REPLAY_FILES = "WIRESPAN_CAPTURE_REPLAY_FILES"


def main() -> None:
    """Run the service and exit."""
    # Before anything else is imported: the NATS client brings aiohttp for its web socket transport, structlog rich for its
    # tracebacks.
    if not os.environ.get(_REPLAY_FILES):
        footprint.start_small()  # a replay ends soon, and somebody waits for it: a second start would be for nothing
    footprint.do_without("aiohttp", "rich")
    from services.capture.service import run_service  # noqa: PLC0415 - see above

    sys.exit(run_service())


if __name__ == "__main__":
    main()
