"""Values by which the chart takes the images of a release by their digests: `digests.py DIST VERSION`.

Written before anything is published: who has the values has what was built, whatever becomes of the tags.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

from multi_arch import made

CHART: Final = {
    "wirespan-capture": ("capture",),
    "wirespan-enricher": ("enricher",),
    "wirespan-exporter": ("exporter",),
    "wirespan": ("toolbox", "view"),
    "wirespan-capture-bcc": (),
}
"""Each image, and the parts of the chart that run it."""


def main(dist: Path, version: str) -> None:
    """Write the values; nothing where no images were built."""
    lines = [f"# The images of Wirespan {version}: helm install ... --values wirespan-{version}-digests.yaml"]
    for name, parts in CHART.items():
        archives = sorted(map(str, dist.glob(f"{name}-{version}-*.oci.tar")))
        if not archives:
            return
        with tempfile.TemporaryDirectory() as folder:
            digest = made(Path(folder) / "image.tar", version, archives)
        lines += [f"{part}: {{image: {{digest: {digest}}}}}" for part in parts] or [f"# {name}@{digest}"]
    (dist / f"wirespan-{version}-digests.yaml").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
