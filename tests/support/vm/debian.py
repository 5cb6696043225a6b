"""Packages of any Debian suite and architecture, downloaded and unpacked, never installed.

apt does the work, with lists and a package status of its own, so that this machine's apt knows nothing of it. The mirrors are
those that the machine's apt is configured with.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SECONDS: Final = 600


class ArchiveUnavailableError(Exception):
    """The archive does not give what was asked for; the message is the reason, in one line."""


@dataclass(frozen=True, slots=True)
class Archive:
    """One suite for one architecture, as of now. `folder` is apt's own; use it in a `with` block of a temporary folder."""

    suite: str
    architecture: str
    folder: Path

    def update(self) -> None:
        """Read the suite's lists. Raises ArchiveUnavailableError."""
        for name in ("lists/partial", "cache/archives/partial"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "status").touch()
        mirror = _mirror("debian-security" if self.suite.endswith("-security") else "debian")
        line = f"deb [arch={self.architecture} signed-by={_KEYRING}] {mirror} {self.suite} main\n"
        (self.folder / "sources.list").write_text(line)
        self._apt("apt-get", "update", "-q")

    def depends(self, package: str) -> list[str]:
        """The packages that a package names in its Depends."""
        return re.findall(r"^ *\|?Depends: ([^<\s]+)", self._apt("apt-cache", "depends", package), re.MULTILINE)

    def unpack(self, packages: list[str], into: Path) -> None:
        """Download packages and unpack them into a folder. Raises ArchiveUnavailableError."""
        with tempfile.TemporaryDirectory(dir=self.folder) as downloads:
            self._apt("apt-get", "download", "-q", *packages, folder=Path(downloads))
            for package in sorted(Path(downloads).glob("*.deb")):
                _run("dpkg-deb", "--extract", str(package), str(into))

    def _apt(self, tool: str, *arguments: str, folder: Path | None = None) -> str:
        settings = {
            "Dir::Etc::SourceList": self.folder / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": self.folder / "lists",
            "Dir::State::Status": self.folder / "status",
            "Dir::Cache": self.folder / "cache",
            "APT::Architecture": self.architecture,
            "APT::Architectures::": self.architecture,
            "APT::Update::Post-Invoke-Success": "",
            "APT::Update::Error-Mode": "any",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        }
        options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        return _run(tool, *options, *arguments, folder=folder)


def _mirror(kind: str) -> str:
    """The mirror of Debian's `debian` or `debian-security` archive that this machine is configured with."""
    sites = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    for site in sites:
        if site.rstrip("/").endswith(f"/{kind}"):
            return site
    raise ArchiveUnavailableError(f"this machine's apt has no mirror of Debian's archive `{kind}`")


def _run(*command: str, folder: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except FileNotFoundError:
        raise ArchiveUnavailableError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise ArchiveUnavailableError(f"{command[0]} did not finish within {_SECONDS} s") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise ArchiveUnavailableError(f"{command[0]}: {said[-300:]}")
    return done.stdout
