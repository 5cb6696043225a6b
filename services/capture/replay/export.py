"""`python -m services.capture.replay.export FILE...`: the records of capture files on standard output, without a bus.

For the commands that show a capture at once. Exit codes: 0 everything was read; 2 the settings are wrong; 3 a file is no
capture file; 4 not all of the files could be read. Standard error says the rest.
"""

from __future__ import annotations

import sys

from services.runtime import footprint


def main() -> int:
    """Write the batches; return the exit code."""
    # As capture itself does: somebody waits for this, and a tenth of a second is a tenth of it.
    footprint.do_without("aiohttp", "rich", "typing_extensions")
    from services.capture.replay.exporting import export  # noqa: PLC0415 - see above

    return export(sys.argv[1:], sys.stdout.buffer)


if __name__ == "__main__":
    sys.exit(main())
