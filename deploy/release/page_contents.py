"""Prints what is bundled into the page of `wirespan view`, as `contents.py` prints what is installed: a line of JSON for each.

That is all of package-lock.json but what only builds, and what a package merely allows beside it.
"""

from __future__ import annotations

import json
from pathlib import Path

LOCK = Path(__file__).parents[2] / "services" / "cli" / "view" / "web" / "package-lock.json"


def main() -> None:
    """Print them."""
    for place, package in json.loads(LOCK.read_text(encoding="utf-8"))["packages"].items():
        if place and not any(package.get(only) for only in ("dev", "devOptional", "peer")):
            name = place.rpartition("node_modules/")[2]
            print(json.dumps({"type": "npm", "name": name, "version": package["version"], "license": package.get("license")}))


if __name__ == "__main__":
    main()
