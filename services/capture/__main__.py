"""`wirespan-capture`: flows to raw batches on the bus.

Taps the sockets of this node, or replays capture files where the settings name some.

Exit status: 0 every batch is stored; 1 something failed, or it could not drain in time; 2 the settings are wrong; 3 a file is
no capture file; 4 this node's sockets cannot be tapped.
"""

from __future__ import annotations

import sys

from services.capture import live_worker, worker
from services.capture.cgroups import NoCgroup2Error
from services.capture.errors import CaptureFileError
from services.capture.settings import CaptureSettings
from services.capture.tap_loader import TapLoadError
from services.runtime.lifecycle import Lifecycle, service_main


async def run(settings: CaptureSettings, lifecycle: Lifecycle) -> None:
    """Replay the files of the settings, or tap this node."""
    await (worker if settings.replay_files else live_worker).run(settings, lifecycle)


def main() -> None:
    """Run the service and exit."""
    exit_codes: dict[type[Exception], int] = {CaptureFileError: 3, TapLoadError: 4, NoCgroup2Error: 4}
    sys.exit(service_main("capture", CaptureSettings, run, exit_codes=exit_codes))


if __name__ == "__main__":
    main()
