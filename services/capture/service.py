"""The service as a whole: settings, which of its two workers runs, and what its errors are to a shell."""

from __future__ import annotations

from services.capture.errors import CaptureFileError
from services.capture.live import worker as live_worker
from services.capture.live.owners.cgroups import NoCgroup2Error
from services.capture.live.tap.loader import TapLoadError
from services.capture.replay import worker
from services.capture.settings import CaptureSettings
from services.runtime.lifecycle import Lifecycle, service_main


async def run(settings: CaptureSettings, lifecycle: Lifecycle) -> None:
    """Replay the files of the settings, or tap this node."""
    await (worker if settings.replay_files else live_worker).run(settings, lifecycle)


def run_service() -> int:
    """Run the service and return its exit status."""
    exit_codes: dict[type[Exception], int] = {CaptureFileError: 3, TapLoadError: 4, NoCgroup2Error: 4}
    return service_main("capture", CaptureSettings, run, exit_codes=exit_codes)
