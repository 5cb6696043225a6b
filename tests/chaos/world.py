"""All processes of a run and the network between them: one NATS server whose disk can lose power, or three."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import nats

from proto.subjects import DEAD_STREAM
from tests.chaos import signals
from tests.chaos.checker import Backend, Verdict
from tests.chaos.cluster import ApiServer
from tests.chaos.links import Network
from tests.chaos.members import ROOT, Feeder, Member
from tests.chaos.servers import SYNC_SECONDS, Server, has_disks, route
from tests.chaos.traffic import Generator
from tests.support.certificates import Certificates, make_certificates
from tests.support.ports import free_port, free_ports
from tests.support.tools import ToolUnavailableError, tool

STREAMS: Final = {"FLOWS_RAW": "enricher", "FLOWS_ENRICHED": "exporter"}
"""The streams on the way, and who consumes each."""
_FAKETIME: Final = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
"""Steps the time of day of whatever is started with it; Debian's libfaketime."""
_REPLICAS: Final = 2
_ANSWER_SECONDS: Final = 5.0
_START_SECONDS: Final = 180.0
_POLL_SECONDS: Final = 0.2
_CAPTURE_DELAY_SECONDS: Final = 0.02
"""What a message from capture takes at the least: a file's messages come over some seconds, as those of a node do."""


class World:
    """What a run is made of. Entered, all of it runs and nothing is generated yet."""

    def __init__(self, folder: Path, seed: int, *, servers: int, power_cuts: bool) -> None:
        self.folder = folder
        self.chance = random.Random(seed)
        self.seed = seed
        self.servers: list[Server] = []
        self.network = Network()
        self.members: list[Member] = []
        self.retired: list[Member] = []
        """Whom others have taken the place of."""
        self.undone: list[str] = []
        """What a fault of this episode was to wait for and did not come: it was not the fault that it is called."""
        self.api_server = ApiServer()
        self.backend: Backend
        self.feeder: Feeder
        self.certificates_made = 0
        self.clock_steps = folder / "clock"
        self._stack = ExitStack()
        self._count = servers
        self.power_cuts = power_cuts

    def __enter__(self) -> Self:
        try:
            self._set_up(self._stack)
        except BaseException:  # being told to end too, wherever that comes
            self._close()
            raise
        return self

    def _set_up(self, stack: ExitStack) -> None:
        program = _power_cut() if self.power_cuts else None
        stack.enter_context(self.network)
        ports = free_ports(self._count)
        for number in range(self._count):
            server = Server(self.folder, number, self._route_ports(number, ports), program)
            stack.callback(server.close)
            server.set_up()
            self.servers.append(server)
        self._start_servers()
        stack.enter_context(self.api_server)
        self.authority = self.folder / "authority.pem"
        self.backend = stack.enter_context(Backend(tls=self.new_certificates()))
        stack.callback(self._stop_members)
        self._start_members()
        self._wait_ready()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        with signals.later():
            self._stack.close()

    @property
    def has_power_cuts(self) -> bool:
        """Whether disks can lose power here."""
        return self.servers[0].disk is not None

    def named(self, service: str) -> list[Member]:
        """The replicas of a service."""
        return [each for each in (*self.members, self.feeder) if each.service == service]

    def new_certificates(self) -> Certificates:
        """Make an authority and what it signs; the exporters trust this one from now on."""
        self.certificates_made += 1
        folder = self.folder / f"certificates-{self.certificates_made}"
        folder.mkdir()
        made = make_certificates(folder)
        fresh = self.authority.with_suffix(".new")
        fresh.write_bytes(made.authority.read_bytes())
        fresh.replace(self.authority)
        return made

    def step_clock(self, seconds: int) -> None:
        """Move the clock of the services by so much from the true time."""
        fresh = self.clock_steps.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.replace(self.clock_steps)

    def ask(self, operation: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What JetStream answers an operator with a tool of their own. Raises OSError or TimeoutError where no server does."""
        return asyncio.run(self._ask(operation, body))

    async def _ask(self, operation: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        client = await nats.connect(
            servers=[server.nats.url for server in self.servers],
            allow_reconnect=False,
            connect_timeout=2,
            error_cb=_say_nothing,
            max_reconnect_attempts=1,
        )
        try:
            payload = json.dumps(body).encode() if body is not None else b""
            answer = await client.request(f"$JS.API.{operation}", payload, timeout=_ANSWER_SECONDS)
            found: dict[str, Any] = json.loads(answer.data)
        finally:
            await client.close()
        return found

    def put_back_dead_letters(self) -> None:
        """Do as somebody does who has read why they are there."""
        command = [sys.executable, "-m", "services.cli", "dead-letters", "replay", "--nats-url", self.servers[0].nats.url]
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)

    @property
    def everybody(self) -> tuple[Member, ...]:
        """Whoever runs, or has run until another took its place."""
        return (*self.members, *self.retired, self.feeder)

    def replace(self, old: Member) -> None:
        """Start another of a service, and tell the old one to end when the new one is ready, as a Deployment does."""
        new = old.successor(free_port())
        new.start()
        # In the lists before anything is waited for: whoever is in them is ended, whatever becomes of the run.
        self.members[self.members.index(old)] = new
        self.retired.append(old)
        deadline = time.monotonic() + _START_SECONDS
        while not new.ready and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if not new.ready:
            self.undone.append(f"{new.name} was not ready, and took the place of the one before it all the same")
        old.stop()

    def wait_replicated(self) -> None:
        """Wait until each server has all of the streams, as a StatefulSet's rollout does between two of them."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, TimeoutError, KeyError, nats.errors.Error):
                clusters = [self.ask(f"STREAM.INFO.{stream}")["cluster"] for stream in STREAMS]
                if all("leader" in each and all(copy["current"] for copy in each.get("replicas", ())) for each in clusters):
                    return
            time.sleep(_POLL_SECONDS)
        self.undone.append("the streams were not on each server when the next one was replaced")

    def differences(self, found: Verdict) -> list[str]:
        """Where the accounts of services, the bus and the receiver do not add up, or something is under way still.

        Sent = seen by capture; what its records become = accepted; nothing waits, nothing is dead; each service knows what
        became of all that it took; and each enricher knows the cluster as it is.
        """
        sent = sum(each.packets + each.reverse_packets for each in self.feeder.known.values())
        account = self.feeder.account
        with contextlib.suppress(OSError, TimeoutError, nats.errors.Error):
            held = {stream: self.ask(f"STREAM.INFO.{stream}") for stream in (*STREAMS, DEAD_STREAM)}
            counted = [
                ("packets that capture has seen", account["packets"], sent),
                ("spans accepted", found.spans, account["spans"]),
                *((f"messages of {name}", each.get("state", {}).get("messages"), 0) for name, each in held.items()),
                *(
                    (f"objects that {each.name} knows", each.metric("wirespan_enricher_kube_objects"), self.api_server.objects)
                    for each in self.named("enricher")
                ),
            ]
            wrong = [f"{what}: {number}, not {right}" for what, number, right in counted if number != right]
            wrong += [self._standing(stream) for stream in STREAMS if held[stream].get("state", {}).get("messages")]
            return [*(line for each in self.members for line in each.differences()), *wrong]
        return ["the bus does not answer"]

    def _standing(self, stream: str) -> str:
        """Where the stream's messages are, and where its consumer stands: whether what is left there is anybody's still."""
        first = self.ask(f"STREAM.INFO.{stream}")["state"]["first_seq"]
        consumer = self.ask(f"CONSUMER.INFO.{stream}.{STREAMS[stream]}")
        waits, in_hand, floor = consumer["num_pending"], consumer["num_ack_pending"], consumer["ack_floor"]["stream_seq"]
        return f"{stream} from {first}: {waits} wait, {in_hand} are in hand, acknowledged up to {floor}"

    def under_way(self) -> int:
        """Messages that wait in the streams, or are in hand."""
        return sum(self.ask(f"STREAM.INFO.{stream}")["state"]["messages"] for stream in STREAMS)

    def leader(self, stream: str) -> int:
        """Number of the server that leads the stream."""
        return int(self.ask(f"STREAM.INFO.{stream}")["cluster"]["leader"].removeprefix("n"))

    def _route_ports(self, number: int, ports: list[int]) -> list[int]:
        """Where a server listens for the others, and the links by which it reaches them."""
        links = {
            other: self.network.link(route(number, other), lambda port=port: port)
            for other, port in enumerate(ports)
            if other != number
        }  # type: ignore[misc]
        return [links[other].port if other in links else port for other, port in enumerate(ports)]

    def _start_servers(self) -> None:
        for server in self.servers:
            server.nats.start()
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError, TimeoutError, nats.errors.Error):
                if "error" not in self.ask("INFO"):
                    return
            if time.monotonic() > deadline:
                raise TimeoutError("JetStream did not come up")
            time.sleep(_POLL_SECONDS)

    def _wait_ready(self) -> None:
        """Return when all members are ready. Raises TimeoutError with those that are not, and where they say why."""
        deadline = time.monotonic() + _START_SECONDS
        while waits := [member for member in self.members if not member.ready]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ready within {_START_SECONDS:g} s: {', '.join(str(each.log) for each in waits)}")
            time.sleep(_POLL_SECONDS)

    def _start_members(self) -> None:
        self.step_clock(0)
        settings = self._settings()
        for service in ("enricher", "exporter"):
            for number in range(_REPLICAS):
                name = f"{service}-{number}"
                port = free_port()
                here = settings | {"WIRESPAN_NATS_URL": self._nats_url(name), "WIRESPAN_HEALTH_PORT": str(port)}
                if service == "enricher":
                    here |= self._kube_settings(name)
                else:
                    link = self.network.link(f"{name}/backend", lambda: self.backend.grpc_port)
                    here["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"https://127.0.0.1:{link.port}"
                member = Member(service, name, self.folder, here, port)
                self.members.append(member)
                member.start()
        here = settings | {"WIRESPAN_NATS_URL": self._nats_url("capture", _CAPTURE_DELAY_SECONDS)}
        self.feeder = Feeder(self.folder, here, Generator(self.folder, self.seed))
        self.feeder.start()

    def _stop_members(self) -> None:
        for member in (*self.members, *self.retired, *([self.feeder] if hasattr(self, "feeder") else [])):
            member.stop()

    def _kube_settings(self, name: str) -> dict[str, str]:
        """An enricher's: how it reaches the API server."""
        link = self.network.link(f"{name}/api-server", lambda: self.api_server.port)
        return {
            "WIRESPAN_KUBE_KUBECONFIG": str(self.api_server.kubeconfig(self.folder / f"{name}-kube", link.port)),
            "WIRESPAN_KUBE_SETTLE_SECONDS": "0",
            "WIRESPAN_KUBE_SILENCE_SECONDS": "60",
            "WIRESPAN_KUBE_WAIT_SECONDS": "180",  # whatever the machine is busy with, each end has to be named
            "WIRESPAN_KUBE_LONGEST_BACKOFF_SECONDS": "1",
        }

    def _nats_url(self, member: str, delay_seconds: float = 0.0) -> str:
        """A link of the member's own to each server."""
        links = []
        for number, server in enumerate(self.servers):
            name = f"{member}/nats-{number}"
            links.append(self.network.link(name, lambda server=server: server.nats.port, delay_seconds=delay_seconds))  # type: ignore[misc]
        self.chance.shuffle(links)
        return ",".join(f"nats://127.0.0.1:{link.port}" for link in links)

    def _settings(self) -> dict[str, str]:
        clock = (
            {
                "LD_PRELOAD": str(_FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock_steps),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
            if has_clock_steps()
            else {}
        )
        return clock | {
            "WIRESPAN_CLUSTER_NAME": "chaos",
            "WIRESPAN_LOG_FORMAT": "json",
            "WIRESPAN_NATS_RECONNECT_SECONDS": "0.3",
            "WIRESPAN_NATS_PING_INTERVAL_SECONDS": "1",
            "WIRESPAN_NATS_CONNECT_TIMEOUT_SECONDS": "2",
            "WIRESPAN_NATS_PUBLISH_TIMEOUT_SECONDS": "2",
            "WIRESPAN_NATS_UNSYNCED_SECONDS": str(2 * SYNC_SECONDS),
            "WIRESPAN_STREAMS_REPLICAS": str(len(self.servers)),
            "WIRESPAN_STREAMS_RAW_BYTES": str(16 << 20),
            "WIRESPAN_STREAMS_ENRICHED_BYTES": str(16 << 20),
            "WIRESPAN_STREAMS_DEAD_BYTES": str(8 << 20),
            "WIRESPAN_STREAMS_RECENT_BYTES": "0",
            "WIRESPAN_STREAMS_CACHE_BYTES": str(8 << 20),
            "WIRESPAN_CAPTURE_NODE": "node-a",
            "WIRESPAN_CAPTURE_ACTIVE_INTERVAL_SECONDS": "5",
            "WIRESPAN_ENRICHER_ACK_WAIT_SECONDS": "2",
            "WIRESPAN_EXPORTER_ACK_WAIT_SECONDS": "2",
            "WIRESPAN_EXPORTER_ATTRIBUTES": "full",
            "WIRESPAN_EXPORTER_FIRST_BACKOFF_SECONDS": "0.2",
            "WIRESPAN_EXPORTER_LONGEST_BACKOFF_SECONDS": "1",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(self.authority),
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2000",
        }


async def _say_nothing(error: Exception) -> None:
    """A server that is down is no news here."""


def has_clock_steps() -> bool:
    """Whether the services' clock can be stepped here."""
    return _FAKETIME is not None


def _power_cut() -> Path | None:
    if not has_disks() or not Path("/dev/fuse").exists():
        return None
    try:
        return tool("power_cut")
    except ToolUnavailableError:
        return None
