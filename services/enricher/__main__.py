"""`wirespan-enricher`: names the workloads at both ends of every flow record."""

from __future__ import annotations

import sys

from services.runtime import footprint


def main() -> int:
    """Run the enricher; return its exit code."""
    # Before anything else is imported: structlog brings rich for tracebacks that are never written so.
    footprint.do_without("rich")
    from services.enricher.service import run_service  # noqa: PLC0415 - see above

    return run_service()


if __name__ == "__main__":
    sys.exit(main())
