"""Asks bcc for its version; run by the system's Python, which has bcc: `/usr/bin/python3 -I bcc_child.py`.

Prints one line of JSON. Only the standard library and bcc are imported here, and nothing that Python 3.9 does not have.
"""

from __future__ import annotations

import json
import platform
from typing import Any


def import_bcc() -> dict[str, Any]:
    """Return what there is to say of it."""
    try:
        import bcc  # noqa: PLC0415 - its absence is an answer
    except ImportError as error:
        return {"error": "missing", "detail": str(error)}
    except Exception as error:  # noqa: BLE001 - a library that does not load, or another package's own trouble
        return {"error": "broken", "detail": f"{type(error).__name__}: {error}"}
    if not hasattr(bcc, "BPF"):
        return {"error": "foreign", "detail": str(getattr(bcc, "__file__", ""))}
    return {"version": str(getattr(bcc, "__version__", "of unknown version")), "python": platform.python_version()}


def main() -> None:
    """Print the answer."""
    print(json.dumps(import_bcc()))


if __name__ == "__main__":
    main()
