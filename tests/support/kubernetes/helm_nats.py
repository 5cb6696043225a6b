"""The NATS of the chart for real: the rendered nats.conf in nats-server, and the rendered environment of who connects to it."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
from nats.aio.client import Client

from services.cli.settings import BusSettings
from services.runtime.settings import NatsSettings, load
from tests.support.kubernetes.helm_chart import RELEASE, Rendered
from tests.support.pipeline.nats_server import NatsServer
from tests.support.ports import free_ports

NODE = "ip-10-0-0-7.eu-west-1.compute.internal"


class RenderedNats:
    """The StatefulSet's servers on ports of the loopback, and how the rendered services reach them."""

    def __init__(self, rendered: Rendered, folder: Path) -> None:
        self.rendered = rendered
        replicas = next(iter(rendered.of_kind("StatefulSet")))["spec"]["replicas"]
        self._routes = free_ports(replicas)
        self.servers = [self._server(ordinal, folder / f"server-{ordinal}") for ordinal in range(replicas)]
        self.folder = folder

    def _server(self, ordinal: int, folder: Path) -> NatsServer:
        files = self.rendered.write_files("nats", folder / "mounted")
        config = files["/etc/nats/config/nats.conf"].read_text()
        places = {
            "0.0.0.0:4222": "127.0.0.1:@PORT@",
            "0.0.0.0:6222": f"127.0.0.1:{self._routes[ordinal]}",
            "0.0.0.0:8222": "127.0.0.1:-1",
            "/run/nats": str(folder),
            '"/data"': f'"{folder / "data"}"',
            "/etc/nats/tls": str(folder / "mounted" / "tls"),
        }
        for place, here in places.items():
            config = config.replace(place, here)
        environ = self.rendered.environment("nats", name=f"{RELEASE}-wirespan-nats-{ordinal}")
        for number, port in enumerate(self._routes):
            if f"ROUTE_{number}" in environ:
                environ[f"ROUTE_{number}"] = re.sub(r"@[^:]+:6222", f"@localhost:{port}", environ[f"ROUTE_{number}"])
        return NatsServer(folder, config=config, environ=environ)

    def environment(self, component: str, node: str = NODE) -> dict[str, str]:
        """The rendered variables of a service, with the addresses and folders of this machine."""
        folder = self.folder / component / node
        folder.mkdir(parents=True, exist_ok=True)
        environ = self.rendered.environment(component, nodeName=node)
        files = self.rendered.write_files(component, folder, NODE_NAME=node)
        scheme = environ["WIRESPAN_NATS_URL"].partition("://")[0]
        environ["WIRESPAN_NATS_URL"] = ",".join(f"{scheme}://localhost:{server.port}" for server in self.servers)
        return {name: str(files.get(value, value)) for name, value in environ.items()}

    def environment_of(self, user: str) -> dict[str, str]:
        """The toolbox's variables, had it been told to be this user."""
        environ = self.environment("toolbox")
        password = self.rendered.data("Secret", f"{RELEASE}-wirespan-nats-{user}")["password"].decode()
        own = {"WIRESPAN_NATS_USER": user, "WIRESPAN_NATS_PASSWORD": password, "WIRESPAN_NATS_INBOX_PREFIX": f"_INBOX_{user}"}
        return environ | own

    def settings(self, component: str, node: str = NODE) -> NatsSettings:
        """The settings of a service's connection, as it reads them itself."""
        return self._settings(self.environment(component, node))

    def settings_of(self, user: str) -> NatsSettings:
        """The settings of the toolbox's connection, had it been told to be this user."""
        return self._settings(self.environment_of(user))

    @staticmethod
    def _settings(environ: dict[str, str]) -> NatsSettings:
        bus = {name: value for name, value in environ.items() if "_NATS_" in name or name == "WIRESPAN_CONFIG"}
        return load(BusSettings, prefix="WIRESPAN_CLI_", environ=bus).nats


@contextlib.contextmanager
def running(rendered: Rendered, folder: Path) -> Iterator[RenderedNats]:
    """The rendered servers, started."""
    bus = RenderedNats(rendered, folder)
    with contextlib.ExitStack() as stack:
        # A cluster is ready when its servers see each other, so none waits for its own readiness alone.
        for server in bus.servers:
            stack.enter_context(server)
        yield bus


@contextlib.asynccontextmanager
async def plain_client(settings: NatsSettings, refusals: list[str]) -> AsyncIterator[Client]:
    """A plain client of NATS as the user of a service; what the server refuses it is written down."""

    async def refused(error: Exception) -> None:
        refusals.append(str(error).lower())

    context = ssl.create_default_context(cafile=settings.tls_ca)
    connected: Client = await nats.connect(
        settings.url, user=settings.user, password=settings.password, tls=context, error_cb=refused, allow_reconnect=False
    )
    try:
        yield connected
    finally:
        await connected.close()
