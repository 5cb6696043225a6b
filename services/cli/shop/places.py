"""Where the shop's sources are, what it can have of this machine, and the Python packages it runs on."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.cli.errors import CliError

_INSTALLED: Final = Path(__file__).parent / "sources"
SOURCES: Final = _INSTALLED if _INSTALLED.exists() else Path(__file__).parents[3] / "deploy" / "compose" / "shop"
"""A wheel has them inside."""
FAULTS: Final = ("slow-database", "lossy-path", "slow-reader", "full-accept-queue", "slow-resolver", "exhausted-pool")
_OF_DATABASE: Final = frozenset({"slow-database", "exhausted-pool"})
_DATABASE_USER: Final = "postgres"


@dataclass(frozen=True, slots=True)
class Databases:
    """The programs of the databases that this machine has; None where it has not."""

    postgres: Path | None
    redis: Path | None

    def missing(self) -> list[str]:
        """Say what is not there, and what becomes of the shop without it."""
        said = []
        if self.postgres is None:
            said.append("no Postgres here (apt install postgresql): the catalog knows its products by heart")
        if self.redis is None:
            said.append("no Redis here (apt install redis-server): the cart remembers by itself")
        return said

    def check(self, fault: str) -> None:
        """Raise CliError where this fault cannot be made without what is missing."""
        if fault in _OF_DATABASE and self.postgres is None:
            raise CliError(f"the fault {fault} is Postgres', which is not here: apt install postgresql")


def databases() -> Databases:
    """Return what this machine has. Postgres refuses to run as root, so it takes a user of its own."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name.partition(".")[0]))
    postgres = next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)
    redis = shutil.which("redis-server")
    usable = postgres and (os.geteuid() != 0 or _has_user(_DATABASE_USER)) and shutil.which("setpriv")
    return Databases(postgres if usable else None, Path(redis) if redis else None)


def as_database_user() -> tuple[str, ...]:
    """Return the command before a command that Postgres' user is to run; it dies with its parent as others do."""
    if os.geteuid() != 0:
        return ()
    user = ("--reuid", _DATABASE_USER, "--regid", _DATABASE_USER, "--clear-groups", "--pdeathsig", "KILL")
    return (shutil.which("setpriv") or "setpriv", *user, "--")


def python_of_shop(say: Callable[[str], None]) -> Path:
    """Return the interpreter of an environment that has what the shop is made of, made where there is none yet."""
    requirements = (SOURCES / "requirements.txt").read_bytes()
    name = hashlib.sha256(requirements + sys.version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "wirespan" / f"shop-{name}"
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    say(f"installing what the shop is made of into {folder}, once ...")
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", SOURCES / "requirements.txt")
    for command in ((sys.executable, "-m", "venv", "--clear", folder), (python, *install)):
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own Python
        if done.returncode:
            error = CliError("the shop's packages could not be installed")
            error.notes = done.stderr.strip().splitlines()[-3:]
            raise error
    (folder / "complete").touch()
    return python


def _has_user(name: str) -> bool:
    import pwd  # noqa: PLC0415 - only a root asks

    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
