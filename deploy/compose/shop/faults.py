"""The fault that is made now, if any. Each is made by whoever would have it in earnest; `frontend.py` and others ask here.

The name of a fault in the file that SHOP_FAULT_FILE names makes that fault, from the next request on, until something else
stands there: slow-database, lossy-path, slow-reader, full-accept-queue, slow-resolver, exhausted-pool.
"""

import os
from pathlib import Path


def is_made(fault: str) -> bool:
    """Whether this is the fault."""
    try:
        return Path(os.environ["SHOP_FAULT_FILE"]).read_text(encoding="utf-8").strip() == fault
    except (KeyError, OSError):
        return False
