"""One OCI archive for all architectures, of one for each: `multi_arch.py OUT TAG ARCHIVE...`.

Whoever pulls the image by its tag is given that of his own architecture. Contents are not changed: digests stay as they were.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

INDEX = "application/vnd.oci.image.index.v1+json"


def made(out: Path, tag: str, archives: list[str]) -> str:
    """Write the archive; return its digest, by which it is known in every registry."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        manifests = [_taken_in(root, Path(archive)) for archive in archives]
        index = _stored(root, {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
        described = {"mediaType": INDEX, **index, "annotations": {"org.opencontainers.image.ref.name": tag}}
        (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
        (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        with tarfile.open(out, "w") as archive:
            for path in sorted(root.iterdir()):
                archive.add(path, path.name)
    digest: str = index["digest"]
    return digest


def _taken_in(root: Path, path: Path) -> dict[str, Any]:
    """Add an archive's blobs; return the description of its one image, with its platform."""
    subprocess.run(["tar", "--extract", "--file", path, "--directory", root], check=True)
    (manifest,) = json.loads((root / "index.json").read_text())["manifests"]
    config = _read(root, _read(root, manifest)["config"])
    platform = {"architecture": config["architecture"], "os": config["os"]}
    return {"mediaType": manifest["mediaType"], "digest": manifest["digest"], "size": manifest["size"], "platform": platform}


def _read(root: Path, described: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((root / "blobs" / described["digest"].replace(":", "/")).read_bytes())
    return read


def _stored(root: Path, what: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(what).encode()
    digest = hashlib.sha256(data).hexdigest()
    (root / "blobs" / "sha256" / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


if __name__ == "__main__":
    print(f"{sys.argv[1]}: {made(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])}")
