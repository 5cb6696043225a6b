"""What is bundled into the page of `wirespan view`, in the words in which `contents.py` prints what is installed.

That is all of package-lock.json but what only builds, and what a package merely allows beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[2] / "services" / "cli" / "view" / "web" / "package-lock.json"


def bundled() -> Iterator[dict[str, Any]]:
    """Yield each of the packages."""
    for place, package in json.loads(LOCK.read_text(encoding="utf-8"))["packages"].items():
        if place and not any(package.get(only) for only in ("dev", "devOptional", "peer")):
            name = place.rpartition("node_modules/")[2]
            yield {"type": "npm", "name": name, "version": package["version"], "license": package.get("license")}
