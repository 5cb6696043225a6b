"""docker-compose.yml as a person uses it: the commands of Compose and of Docker, and what the containers are and say."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

ROOT: Final = Path(__file__).parents[3]
PATIENCE_SECONDS: Final = 180
"""For what a busy machine does late; nothing is expected to take so long."""

_SUITE: Final = "trixie"


class Project:
    """One project of Compose with its own containers, network and volumes. Leaving the context removes them all."""

    def __init__(
        self, name: str, environment: Mapping[str, str], *, command: Sequence[str | Path] = ("docker-compose",)
    ) -> None:
        self.name = name
        self.environment = dict(environment)
        self._command = tuple(command)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        every = [option for profile in ("replay", "core", "live", "tools", "shop") for option in ("--profile", profile)]
        self._run(
            *self._command, "-p", self.name, *every, "down", "--volumes", "--remove-orphans", "--timeout", "5", check=False
        )

    @property
    def spans(self) -> Path:
        """Where the exporter of profile `core` writes to, in the folder that the environment names."""
        return Path(self.environment["SPANS"], "spans.jsonl")

    def compose(self, *arguments: str, profiles: Sequence[str] = ("core",)) -> str:
        """Run a command of Compose; return what it prints."""
        chosen = [option for profile in profiles for option in ("--profile", profile)]
        return self._run(*self._command, "-p", self.name, *chosen, *arguments)

    def docker(self, *arguments: str) -> str:
        """Run a command of Docker; return what it prints."""
        return self._run("docker", *arguments)

    def container(self, service: str) -> str:
        """The id of the service's container."""
        (found,) = self.docker(
            "ps",
            *("--all", "--quiet", "--no-trunc"),
            *("--filter", f"label=com.docker.compose.project={self.name}"),
            *("--filter", f"label=com.docker.compose.service={service}"),
        ).split()
        return found

    def inspect(self, service: str) -> dict[str, Any]:
        """What `docker inspect` says of it."""
        (found,) = json.loads(self.docker("inspect", self.container(service)))
        return found

    def state(self, service: str) -> dict[str, Any]:
        """Its state."""
        return self.inspect(service)["State"]

    def run_inside(self, service: str, *command: str) -> str:
        """Run a command in the service's container; return what it prints."""
        return self.docker("exec", self.container(service), *command)

    def log(self, service: str) -> str:
        """All that it has said, in every life of the container."""
        command = ("docker", "logs", self.container(service))
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout + done.stderr

    def until(self, what: str, holds: Any) -> None:
        """Wait until `holds()`; where it never does, fail with what every container has said."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {PATIENCE_SECONDS} s: {what}\n{self._report()}")
            time.sleep(0.3)

    def until_healthy(self, *services: str) -> None:
        """Wait until the health checks of these services pass."""
        for service in services:
            self.until(f"{service} is healthy", lambda service=service: self._healthy(service))

    def until_logged(self, service: str, text: str, times: int = 1) -> None:
        """Wait until the service has said it so often."""
        self.until(f"{service} says {text}", lambda: self.log(service).count(text) >= times)

    def _healthy(self, service: str) -> bool:
        state = self.state(service)
        return state["Running"] and state["Health"]["Status"] == "healthy"

    def _report(self) -> str:
        listed = f"label=com.docker.compose.project={self.name}"
        report = self.docker("ps", "--all", "--filter", listed)
        for container in self.docker("ps", "--all", "--quiet", "--filter", listed).split():
            command = ("docker", "logs", "--tail", "15", container)
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
            report += f"\n{container}\n{done.stdout}{done.stderr}"
        return report

    def _run(self, *command: str | Path, check: bool = True) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False, timeout=1200
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done.stdout


def fetch_compose_v2(folder: Path) -> Path | None:
    """Compose 2 as Debian's next release packages it, unpacked into `folder` and not installed; None where it cannot be had."""
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    mirror = _mirror()
    if not keyring.exists() or mirror is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        sources = Path(scratch, "sources.list")
        sources.write_text(f"deb [signed-by={keyring}] {mirror} {_SUITE} main\n")
        for name in ("lists/partial", "cache/archives/partial"):
            Path(scratch, name).mkdir(parents=True)
        settings = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": f"{scratch}/lists",
            "Dir::Cache": f"{scratch}/cache",
            "APT::Sandbox::User": "root",
        }
        options = [option for name, value in settings.items() for option in ("-o", f"{name}={value}")]
        try:
            for command in (["update"], ["download", f"docker-compose/{_SUITE}"]):
                subprocess.run(["apt-get", "-q", *options, *command], cwd=scratch, capture_output=True, check=True, timeout=300)
            (package,) = Path(scratch).glob("docker-compose_*.deb")
            subprocess.run(["dpkg", "-x", package, folder], capture_output=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError, ValueError):
            return None
    executable = folder / "usr/libexec/docker/cli-plugins/docker-compose"
    version = subprocess.run([executable, "version"], capture_output=True, check=False, timeout=60)
    return executable if version.returncode == 0 else None


def _mirror() -> str | None:
    """Where this machine gets Debian's packages from."""
    command = ("apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages")
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next((line.split()[0] for line in listed.splitlines() if line.endswith("/debian/ main")), None)
