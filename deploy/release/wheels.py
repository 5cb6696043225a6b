"""The sdist, and from it a wheel for each platform: `wheels.py DIST`. `make release-wheels` runs it where its packages are.

The wheels are built of the unpacked sdist, not of the checkout: so the sdist is known to be whole, and the checkout keeps the
library of its own machine. One compiler, zig's, builds the library for every platform against the oldest C library that the
wheel's tag allows; auditwheel reads the result and says whether that is so.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PLATFORMS = {"manylinux_2_28_x86_64": "x86_64-linux-gnu.2.28", "manylinux_2_28_aarch64": "aarch64-linux-gnu.2.28"}
"""The tag of each wheel, and what zig compiles its library for. numpy's wheels ask for the same C library."""
ROOT = Path(__file__).parents[2]
LIBRARIES = ("bpf/_replay.so", "bpf/_otlp.so", "bpf/_record.so")
PROGRAMS = "bpf/_tap.bpf"
"""What the kernel is given: the same in every wheel. It is compiled for the wheel of this machine's platform."""


def main(dist: Path) -> None:
    """Build all of them into `dist`, in the place of any that are there."""
    dist.mkdir(exist_ok=True)
    for old in (*dist.glob("wirespan-*.whl"), *dist.glob("wirespan-*.tar.gz")):
        old.unlink()
    build(ROOT, "sdist", dist)
    (sdist,) = dist.glob("wirespan-*.tar.gz")
    machine = os.uname().machine
    with tempfile.TemporaryDirectory() as kept:
        build_wheels(dist, sdist, Path(kept), sorted(PLATFORMS.items(), key=lambda each: not each[0].endswith(machine)))
    print(f"{sdist.name}: {sdist.stat().st_size:,} bytes")


def build_wheels(dist: Path, sdist: Path, kept: Path, platforms: list[tuple[str, str]]) -> None:
    """Build a wheel of the sdist for each of the platforms, of which the first is this machine's."""
    programs: dict[str, str] = {}
    for platform, target in platforms:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["tar", "--extract", "--file", sdist, "--directory", folder], check=True)
            (source,) = Path(folder).iterdir()
            compiler = f"{shlex.quote(sys.executable)} -m ziglang cc -target {target}"
            build(source, "wheel", dist, CC=compiler, CFLAGS="-g0", WIRESPAN_WHEEL_PLATFORM=platform, **programs)
        (wheel,) = dist.glob(f"wirespan-*-{platform}.whl")
        check(wheel, platform)
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes")
        with zipfile.ZipFile(wheel) as archive:
            if not programs and PROGRAMS in archive.namelist():
                programs["WIRESPAN_PROGRAMS"] = archive.extract(PROGRAMS, kept)


def build(source: Path, kind: str, dist: Path, **environment: str) -> None:
    """Build one thing with the hatchling that this runs beside."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(dist.absolute())]
    subprocess.run(command, cwd=source, env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL)


def check(wheel: Path, platform: str) -> None:
    """Exit where the wheel lacks its library, or needs more than its tag says."""
    with zipfile.ZipFile(wheel) as archive:
        # e_machine, of which no value here needs its second byte
        if "services/cli/view/assets/index.html" not in archive.namelist():
            print(f"{wheel.name}: without the page of `wirespan view`, which was not built here")
        machines = {archive.read(library)[18] for library in LIBRARIES}
    if machines != {{"x86_64": 62, "aarch64": 183}[platform.removeprefix("manylinux_2_28_")]}:
        sys.exit(f"{wheel.name}: a library of it is for another machine ({machines})")
    command = [sys.executable, "-m", "auditwheel", "show", str(wheel)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r'platform\s+tag:\s+"manylinux_2_(\d+)_', " ".join(shown.split()))
    if found is None or int(found[1]) > int(platform.split("_")[2]):
        sys.exit(f"{wheel.name} does not keep what its tag says:\n{shown}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
