"""Prints what is installed where this runs, a line of JSON for each: Python packages, and Debian's where there are any."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.metadata import distributions

DEBIAN_FIELDS = "${Package}\t${Version}\t${Architecture}\n"


def main() -> None:
    """Print them."""
    for one in distributions():
        found = {"type": "pypi", "name": one.metadata["Name"], "version": one.version}
        print(json.dumps(found | {"license": one.metadata.get("License-Expression")}))
    if shutil.which("dpkg-query"):
        command = ["dpkg-query", "--show", f"--showformat={DEBIAN_FIELDS}"]
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
            name, version, architecture = line.split("\t")
            print(json.dumps({"type": "deb", "name": name, "version": version, "architecture": architecture}))


if __name__ == "__main__":
    main()
