"""A CycloneDX bill of materials of a wheel or an image, and of the page: `contents.py | sbom.py NAME VERSION [BASE]`.

`BASE` is the image that an image is made on, `name:tag@digest`. Whatever we release has the package in it, and so the page of
`wirespan view`. The same contents give the same bytes: there is
no time and no serial number in it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from page_contents import bundled


def bill(name: str, version: str, contents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the bill of an artifact that holds these packages."""
    components = {component["purl"]: component for component in map(_component, contents) if component["name"] != name}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": name, "version": version, "bom-ref": "it"}},
        "components": [components[purl] for purl in sorted(components)],
    }


def _component(package: dict[str, Any]) -> dict[str, Any]:
    name, version = package["name"], package["version"]
    if package["type"] == "deb":
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={package['architecture']}"
    elif package["type"] == "npm":
        purl = f"pkg:npm/{quote(name)}@{quote(version)}"
    else:
        purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{quote(version)}"
    component = {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}
    return component | ({"licenses": [{"expression": package["license"]}]} if package.get("license") else {})


def base(reference: str) -> dict[str, Any]:
    """Return the component that an image is made on, by its digest where it has one."""
    named, _, digest = reference.partition("@")
    repository, _, tag = named.rpartition(":") if ":" in named.rpartition("/")[2] else (named, "", "latest")
    name = repository.rpartition("/")[2]
    where = quote(repository if "/" in repository else f"docker.io/library/{repository}", safe="/:")
    purl = f"pkg:oci/{name}@{quote(digest)}?repository_url={where}&tag={tag}" if digest else f"pkg:docker/{name}@{tag}"
    return {"type": "container", "name": name, "version": tag, "purl": purl, "bom-ref": purl}


def main() -> None:
    """Read lines from standard input, write the bill to standard output."""
    name, version, *bases = sys.argv[1:]
    made = bill(name, version, [*map(json.loads, sys.stdin), *bundled()])
    made["components"] += map(base, bases)
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
