"""`wirespan-exporter`: enriched batches to a backend, as OTLP spans."""

from __future__ import annotations

import sys

from services.runtime import footprint
from services.runtime.privacy.redaction import guard_standard_error


def main() -> int:
    """Run the exporter; return its exit code."""
    guard_standard_error()
    # Before anything else is imported: structlog brings rich for tracebacks that are never written so.
    footprint.do_without("rich")
    from services.exporter.service import run_service  # noqa: PLC0415 - see above

    return run_service()


if __name__ == "__main__":
    sys.exit(main())
