"""The shop while it runs: its processes, on addresses of the loopback of their own, with certificates of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from services.cli.errors import CliError, ServiceFailedError
from services.cli.run.destination import EndpointDestination, FileDestination
from services.cli.run.processes.supervisor import Command, Supervisor
from services.cli.shop.control_groups import control_groups, inside
from services.cli.shop.places import FAULTS, SOURCES, Databases, as_database_user, databases, python_of_shop
from services.cli.shop.telemetry import write_configuration

ADDRESSES: Final = {
    "frontend": "127.0.77.1:8443",
    "catalog": "127.0.77.2:8080",
    "cart": "127.0.77.3:50051",
    "postgres": "127.0.77.4:5432",
    "redis": "127.0.77.5:6379",
    "resolver": "127.0.77.6:53",
}
"""The usual ports, on addresses that nobody else uses."""
LOAD: Final = "load"
_NAMES: Final = [*ADDRESSES, LOAD]
_WAITED_FOR: Final = frozenset({"postgres", "redis", "catalog", "frontend"})
_TCP_SOCKETS: Final = Path("/proc/net/tcp")
_LISTENING: Final = "0A"
_START_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the shop is started with."""

    databases: Databases
    python: Path
    fault: str
    destination: EndpointDestination | FileDestination
    intake: str
    """URL of where copies of its spans go."""


def prepared(
    fault: str | None, destination: EndpointDestination | FileDestination, intake_port: int, say: Callable[[str], None]
) -> Prepared:
    """Look what there is and install what the shop is made of. Raises CliError where it cannot run here."""
    there = databases()
    for line in there.missing():
        say(line)
    if fault is not None:
        there.check(fault)
    _check_addresses()
    return Prepared(there, python_of_shop(say), fault or "", destination, f"http://127.0.0.1:{intake_port}")


async def beside_shop(shop: Prepared, work: Callable[[], Coroutine[Any, Any, None]], say: Callable[[str], None]) -> None:
    """Start the shop, what it stands on first; then run `work` for as long as the shop does; then stop all of it.

    The shop's own spans go where ours go, unless that is a file, and to the enricher. Raises CliError where it does not start.
    """
    with _folder() as folder, control_groups(_NAMES) as groups:
        if not groups:
            say("no control groups can be made here: the shop's parts are told apart by address alone")
        fault_file = folder / "fault"
        fault_file.write_text(f"{shop.fault}\n", encoding="utf-8")
        commands = await asyncio.to_thread(_commands, shop, folder)
        async with Supervisor(say=say) as supervisor:
            for command in commands:
                supervisor.start(replace(command, arguments=inside(groups.get(command.name), command.arguments)))
                if command.name in _WAITED_FOR:
                    await _guarded(supervisor, _listens(command.name), folder)
            say(f"the shop sells; what is wrong there: {shop.fault or 'nothing'}")
            say(f"to change that: echo FAULT > {fault_file} (none, {', '.join(FAULTS)})")
            await _guarded(supervisor, work(), folder)


async def _guarded(supervisor: Supervisor, work: Coroutine[Any, Any, None], folder: Path) -> None:
    try:
        await supervisor.guard(work)
    except ServiceFailedError as error:
        error.notes = (folder / f"{error.service}.log").read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
        raise


def _commands(shop: Prepared, folder: Path) -> list[Command]:
    """The parts, who is asked before who asks."""
    _certificates(shop.python, folder)
    there, environ = shop.databases, _environ(shop, folder)
    commands = []
    if there.postgres is not None:
        commands.append(_command("postgres", folder, environ, *_postgres(there.postgres, folder)))
    if there.redis is not None:
        commands.append(_command("redis", folder, environ, *_redis(there.redis, folder)))
    instrumented = str(shop.python.with_name("opentelemetry-instrument")), str(shop.python)
    for name in ("resolver", "cart", "catalog", "frontend", LOAD):
        own = environ | {"OTEL_SERVICE_NAME": name, "SHOP_LISTEN": ADDRESSES.get(name, "")}
        commands.append(_command(name, folder, own, *instrumented, str(SOURCES / f"{name}.py")))
    return commands


def _command(name: str, folder: Path, environ: Mapping[str, str], *arguments: str) -> Command:
    return Command(name=name, arguments=arguments, environ=environ, log_path=folder / f"{name}.log")


def _environ(shop: Prepared, folder: Path) -> dict[str, str]:
    there, destination = shop.databases, shop.destination
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WIRESPAN_", "PYTHON", "SHOP_"))}
    exported = isinstance(destination, EndpointDestination)
    if exported:
        kept = destination.environ(kept)
    return kept | {
        "OTEL_CONFIG_FILE": str(write_configuration(folder, kept, shop.intake, exported=exported)),
        "OTEL_RESOURCE_ATTRIBUTES": "service.namespace=shop",
        "SHOP_FAULT_FILE": str(folder / "fault"),
        "SHOP_CERTIFICATES": str(folder / "certificates"),
        "SHOP_HOSTS": f"catalog.shop={ADDRESSES['catalog'].partition(':')[0]}",
        "SHOP_RESOLVER": ADDRESSES["resolver"].partition(":")[0],
        "SHOP_CATALOG": f"catalog.shop:{ADDRESSES['catalog'].partition(':')[2]}",
        "SHOP_CART": ADDRESSES["cart"],
        "SHOP_FRONTEND": ADDRESSES["frontend"],
        "SHOP_POSTGRES": f"postgresql://shop@{ADDRESSES['postgres']}/postgres?sslmode=require" if there.postgres else "",
        "SHOP_REDIS": f"rediss://{ADDRESSES['redis']}?ssl_ca_certs={folder}/certificates/client.pem" if there.redis else "",
    }


def _redis(program: Path, folder: Path) -> tuple[str, ...]:
    address, _, port = ADDRESSES["redis"].partition(":")
    certificates = folder / "certificates"
    tls = ("--tls-cert-file", str(certificates / "server.pem"), "--tls-key-file", str(certificates / "server.key"))
    return (str(program), "--bind", address, "--port", "0", "--tls-port", port, *tls, "--tls-auth-clients", "no", "--save", "")


def _postgres(programs: Path, folder: Path) -> tuple[str, ...]:
    """Make a database for this run alone, and return the command that serves it."""
    data = folder / "postgres"
    data.mkdir()
    key, certificate = data / "server.key", data / "server.pem"
    if os.geteuid() == 0:
        shutil.chown(data, "postgres", "postgres")
    initdb = (*as_database_user(), str(programs / "initdb"), "--no-sync", "--auth", "trust", "--username", "shop")
    done = subprocess.run(  # noqa: S603 - the machine's own
        [*initdb, "--pgdata", str(data / "data")], capture_output=True, text=True, check=False, cwd="/"
    )
    if done.returncode:
        error = CliError("Postgres makes no database here")
        error.notes = done.stderr.strip().splitlines()[-3:]
        raise error
    for source, target in (("server.key", key), ("server.pem", certificate)):
        shutil.copy(folder / "certificates" / source, target)
        target.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(target, "postgres", "postgres")
    address, _, port = ADDRESSES["postgres"].partition(":")
    settings = {
        "listen_addresses": address,
        "port": port,
        "unix_socket_directories": str(data),
        "ssl": "on",
        "ssl_cert_file": str(certificate),
        "ssl_key_file": str(key),
        "fsync": "off",
    }
    chosen = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return (*as_database_user(), str(programs / "postgres"), "-D", str(data / "data"), *chosen)


def _certificates(python: Path, folder: Path) -> None:
    """Make certificates that everything that speaks TLS shares; who asks trusts their issuer alone."""
    target = folder / "certificates"
    target.mkdir()
    identities = [address.partition(":")[0] for address in ADDRESSES.values()]
    subprocess.run(  # noqa: S603 - the shop's own Python
        [python, "-m", "trustme", "--quiet", "--dir", target, "--identities", *identities], check=True, capture_output=True
    )


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder that Postgres' user may pass through."""
    path = Path(tempfile.mkdtemp(prefix="shop-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _check_addresses() -> None:
    """Raise CliError where somebody, such as another shop, has one of the addresses."""
    for name, address in ADDRESSES.items():
        host, _, port = address.partition(":")
        kind = socket.SOCK_DGRAM if name == "resolver" else socket.SOCK_STREAM
        with socket.socket(socket.AF_INET, kind) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((host, int(port)))
            except OSError as error:
                raise CliError(f"the shop's {name} needs {address}: {error.strerror}") from error


async def _listens(name: str) -> None:
    try:
        async with asyncio.timeout(_START_SECONDS):
            while not _is_listening(ADDRESSES[name]):  # noqa: ASYNC110 - the kernel tells who asks
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise CliError(f"the shop's {name} did not begin to listen within {_START_SECONDS:g} s") from None


def _is_listening(address: str) -> bool:
    """Ask the kernel: whoever tried to connect would be a refused connection that is shown."""
    host, _, port = address.partition(":")
    wanted = f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{int(port):04X}"
    sockets = (line.split() for line in _TCP_SOCKETS.read_text(encoding="ascii").splitlines())
    return any(fields[1] == wanted and fields[3] == _LISTENING for fields in sockets)
