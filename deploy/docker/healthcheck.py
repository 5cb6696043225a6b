"""Ends with 0 where the service in this container answers, 1 where it does not: HEALTHCHECK of the images.

    healthcheck.py [/readyz]     asks /healthz, or what is named

Only the standard library is imported, and little of it: this runs every few seconds.
"""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException

EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not listened on


def main(path: str) -> int:
    """Ask and return the exit status."""
    host = os.environ.get("WIRESPAN_HEALTH_HOST", "")
    connection = HTTPConnection(
        "localhost" if host in EVERYWHERE else host, int(os.environ.get("WIRESPAN_HEALTH_PORT", "0")), timeout=4
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        said = answer.read(500).decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        sys.stdout.write(f"no answer: {error}\n")
        return 1
    sys.stdout.write(f"{answer.status} {said}\n")
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "/healthz"))
