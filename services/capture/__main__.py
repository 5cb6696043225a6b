"""`wirespan-capture`: flows to raw batches on the bus.

Exit status: 0 every batch is stored; 1 something failed, or it could not drain in time; 2 the settings are wrong; 3 a file is
no capture file.
"""

from __future__ import annotations

import sys

from services.capture.errors import CaptureFileError
from services.capture.settings import CaptureSettings
from services.capture.worker import run
from services.runtime.lifecycle import service_main


def main() -> None:
    """Run the service and exit."""
    sys.exit(service_main("capture", CaptureSettings, run, exit_codes={CaptureFileError: 3}))


if __name__ == "__main__":
    main()
