"""The whole path on one machine: a bus, exporter, enricher and capture as processes, for as long as a context lasts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from proto.subjects import DEAD_STREAM, ENRICHED_STREAM, RAW_STREAM, enriched_subject, partition_streams, partition_subject
from services.cli.doctor.finding import one_line
from services.cli.errors import CliError, NotACaptureError, ServiceFailedError
from services.cli.interruption import Interruption
from services.cli.program import program
from services.cli.run.capture_files import as_setting
from services.cli.run.destination import EndpointDestination, FileDestination
from services.cli.run.ledger import CaptureProgress, Ledger, is_of_run, read_dead_letter, read_progress
from services.cli.run.processes.nats_server import NatsAddress, start_nats_server
from services.cli.run.processes.service_log import backend_trouble, last_errors
from services.cli.run.processes.supervisor import Command, Supervisor
from services.cli.run.run_folder import RunFolder, run_folder
from services.cli.settings import BusSettings, embedded_bus_settings
from services.cli.waiting import DEFAULT_SECONDS, reached
from services.runtime.errors import BusError
from services.runtime.nats import bus as runtime_bus
from services.runtime.settings import StreamSettings

CAPTURE, ENRICHER, EXPORTER = "capture", "enricher", "exporter"
NOT_A_CAPTURE: Final = 3
"""Exit status of capture for a file that is no capture file."""
NOT_TAPPED: Final = 4
"""Exit status of capture where this node's sockets cannot be tapped."""

_HOW_MUCH: Final = ("WIRESPAN_EXPORTER_ATTRIBUTES", "WIRESPAN_EXPORTER_PRESET", "WIRESPAN_CONFIG")
"""Where somebody may have said how much spans are to carry."""
_POLL_SECONDS: Final = 0.1
_LEDGER_SECONDS: Final = 60.0
_ACK_WAIT_SECONDS: Final = "5"
_NATS_PORT: Final = 4222
_LOWEST_PORT: Final = 10_000
_CLIENTS_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_SOURCES: Final = str(Path(__file__).parents[3])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run."""

    files: Sequence[Path] = ()
    """Capture files to replay; without any, this node's sockets are tapped."""
    destination: EndpointDestination | FileDestination
    node: str
    """Name that the records carry, and the last token of their subjects."""
    epoch: str = ""
    """Identity of the run: a capture that is started again repeats its messages. Empty: every start is a run of its own."""
    loop: bool = False
    """Replay without end, at the speed of the capture."""
    kube_snapshot: Path | None = None
    kubeconfig: Path | None = None
    """Of the live cluster to name workloads from, where there is no snapshot."""
    speed: float | None = None
    """Of a loop: how much faster than it was recorded."""
    cluster_name: str | None = None
    bus: BusSettings | None = None
    """A bus that runs already; None starts one."""
    deny_ports: Sequence[int] = ()
    """Ports of this run's own that a live capture leaves out, besides those of the bus."""
    bus_timeout_seconds: float | None = DEFAULT_SECONDS
    """How long to wait for it."""
    intake_port: int | None = None
    """Where the enricher takes copies of applications' spans, over OTLP/gRPC, for capture to meet with what it sees live."""
    questions: Path | None = None
    """What is asked about applications' spans whose exchanges are in the capture files."""

    @property
    def live(self) -> bool:
        """Whether sockets are tapped."""
        return not self.files


@dataclass(frozen=True, slots=True)
class Status:
    """How far a run is."""

    progress: CaptureProgress
    batches_under_way: int
    """Batches that are stored on the bus and not acknowledged yet."""
    trouble: str | None
    """What the backend's last refusal said, while the exporter waits for it."""

    @property
    def acknowledged(self) -> int:
        """Records that the backend has, in proportion to the batches: exact when none is under way."""
        batches = self.progress.batches
        done = max(batches - self.batches_under_way, 0)
        return self.progress.records * done // batches if batches else 0


class Pipeline:
    """A running path. Made by `running_pipeline`."""

    def __init__(
        self, plan: Plan, *, folder: RunFolder, supervisor: Supervisor, bus: runtime_bus.Bus, nats: NatsAddress
    ) -> None:
        self.plan = plan
        self.bus = bus
        self.nats = nats
        self._folder = folder
        self._supervisor = supervisor
        self._partitions = 1

    async def reach(self, streams: StreamSettings, say: Callable[[str], None]) -> None:
        """Return once the bus is there with its streams. Raises BusError."""
        await reached(self.bus, self.nats.url, say=say, timeout_seconds=self.plan.bus_timeout_seconds)
        await self.bus.ensure_streams(streams)
        self._partitions = streams.kept_partitions
        if self.plan.bus is not None:
            # Enrichers of others take batches of this run too, and have partitions of their own.
            allowed = await self.bus.may_publish()
            others = [await self.bus.partitions(stream, allowed) for stream in (RAW_STREAM, ENRICHED_STREAM)]
            self._partitions = max(self._partitions, *others)

    def watch(self) -> runtime_bus.Watch:
        """Return the run's enriched batches as they pass."""
        subject = enriched_subject(self.plan.node)
        return self.bus.watch(*(partition_subject(subject, partition) for partition in range(self._partitions)))

    @property
    def _streams(self) -> tuple[str, ...]:
        """All that the run's batches may be in."""
        # The enricher acknowledges a raw batch once its enriched ones are stored: in this order none slips through between.
        return tuple(name for stream in (RAW_STREAM, ENRICHED_STREAM) for name in partition_streams(stream, self._partitions))

    async def status(self) -> Status:
        """Return how far the run is."""
        progress = read_progress(self._folder.progress)
        under_way = sum([(await self.bus.stream_state(stream)).messages for stream in self._streams])
        return Status(progress, under_way, backend_trouble(self._folder.log(EXPORTER)))

    async def until_capturing(self) -> None:
        """Return once capture reads: the file is open, or the sockets are tapped. Raises as `until_delivered`."""
        await self.guard(self._until_capturing())

    async def until_delivered(self, show: Callable[[Status], None]) -> None:
        """Return once capture has read everything and every batch is acknowledged; `show` is called every so often until then.

        Raises NotACaptureError, or ServiceFailedError as soon as a service has failed for good.
        """
        await self.guard(self._until_delivered(show))

    async def guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` for as long as the services do. Raises as `until_delivered`."""
        try:
            await self._supervisor.guard(work)
        except ServiceFailedError as error:
            raise self._explained(error) from error

    async def drain(self, within_seconds: float) -> None:
        """Stop capture and give what it has handed over so long to arrive."""
        await self._supervisor.stop(CAPTURE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                for stream in self._streams:
                    await self._until_consumed(stream, lambda _: None)

    async def stop_services(self) -> None:
        """Stop them side by side, where nothing is under way between them any more."""
        await asyncio.gather(*map(self._supervisor.stop, (CAPTURE, ENRICHER, EXPORTER)))

    async def ledger(self) -> Ledger:
        """Return the account of the run as it stands. Raises CliError where the bus does not answer any more."""
        try:
            async with asyncio.timeout(_LEDGER_SECONDS):
                return await self._ledger()
        except (TimeoutError, BusError) as error:
            raise CliError("the bus does not answer: what is delivered and what is not cannot be said") from error

    async def _ledger(self) -> Ledger:
        status = await self.status()
        letters = [
            read_dead_letter(message.subject, message.headers, message.data)
            async for message in self.bus.peek(DEAD_STREAM)
            if self.plan.bus is None or is_of_run(message.headers, self.plan.node, self.plan.epoch)
        ]
        return Ledger(status.progress, tuple(letters), status.batches_under_way)

    async def _until_capturing(self) -> None:
        while not read_progress(self._folder.progress).capturing:  # noqa: ASYNC110 - it is told in a file
            await asyncio.sleep(_POLL_SECONDS)

    async def _until_delivered(self, show: Callable[[Status], None]) -> None:
        while not (status := await self.status()).progress.finished:
            show(status)
            await asyncio.sleep(_POLL_SECONDS)
        for stream in self._streams:
            await self._until_consumed(stream, show)
        show(await self.status())

    async def _until_consumed(self, stream: str, show: Callable[[Status], None]) -> None:
        """Wait until everything that the stream holds now is acknowledged, whatever others add meanwhile."""
        last = (await self.bus.stream_state(stream)).last_sequence
        while (state := await self.bus.stream_state(stream)).messages and state.first_sequence <= last:
            show(await self.status())
            await asyncio.sleep(_POLL_SECONDS)

    def _explained(self, error: ServiceFailedError) -> CliError:
        """Add what the service itself said; a file that is no capture is not a failure of the service."""
        lines = last_errors(self._folder.log(error.service))
        if error.service == CAPTURE and error.exit_code == NOT_A_CAPTURE:
            said = read_progress(self._folder.progress).error or (lines[-1] if lines else str(error))
            return NotACaptureError(said)
        if error.service == CAPTURE and error.exit_code == NOT_TAPPED:
            said = read_progress(self._folder.progress).error or (lines[-1] if lines else str(error))
            refused = CliError(f"this machine's sockets cannot be tapped: {one_line(said)}")
            missing, instead = (
                f"`{program()} doctor` says what is missing",
                f"`{program()} up --demo` replays the bundled capture",
            )
            refused.notes = [missing, instead]
            return refused
        error.notes = lines
        return error


@contextlib.asynccontextmanager
async def running_pipeline(plan: Plan, asked: Interruption, *, say: Callable[[str], None]) -> AsyncIterator[Pipeline]:
    """Start everything and yield; stop it in the order of the path when the context ends: capture first, the bus last.

    `say` gets one line for each thing a person should know. Raises CliError where the bus does not start or does not let us in,
    AskedToEndError where `asked` comes before.
    """
    with run_folder() as folder:
        async with Supervisor(say=say) as supervisor:
            if plan.bus is None:
                nats = await start_nats_server(supervisor, folder)
                settings = embedded_bus_settings(nats)
            else:
                settings = plan.bus
                nats = NatsAddress(settings.nats.url)
            async with runtime_bus.connect(settings.nats, name="wirespan") as bus:
                pipeline = Pipeline(plan, folder=folder, supervisor=supervisor, bus=bus, nats=nats)
                try:
                    await asked.or_end(supervisor.guard(pipeline.reach(settings.streams, say)))
                except BusError as error:
                    raise CliError(str(error)) from error
                environ = _environ(plan, settings if plan.bus is None else None)
                for command in _commands(plan, folder, environ, nats):
                    supervisor.start(command)
                yield pipeline


def _commands(plan: Plan, folder: RunFolder, environ: Mapping[str, str], nats: NatsAddress) -> list[Command]:
    """The services, downstream first: who takes is there before who gives."""
    capture = {
        "WIRESPAN_CAPTURE_NODE": plan.node,
        "WIRESPAN_CAPTURE_REPLAY_FILES": as_setting(plan.files, folder.path),
        "WIRESPAN_CAPTURE_REPLAY_LOOP": str(plan.loop).lower(),
        "WIRESPAN_CAPTURE_PROGRESS_FILE": str(folder.progress),
        "WIRESPAN_CAPTURE_EPOCH": plan.epoch,
    }
    if plan.questions is not None:
        capture["WIRESPAN_CAPTURE_REPLAY_QUESTIONS"] = str(plan.questions)
    if plan.speed is not None:
        capture["WIRESPAN_CAPTURE_REPLAY_SPEED"] = str(plan.speed)
    if plan.live:
        own_ports = (*bus_ports(nats.url), *filter(None, [plan.intake_port]), *plan.deny_ports)
        capture |= _live_settings(environ, own_ports)
    enricher = {"WIRESPAN_ENRICHER_KUBE_SNAPSHOT": str(plan.kube_snapshot.absolute())} if plan.kube_snapshot else {}
    if plan.kubeconfig:
        enricher = {"WIRESPAN_KUBE_API": "kubeconfig", "WIRESPAN_KUBE_KUBECONFIG": str(plan.kubeconfig.absolute())}
    if plan.intake_port is not None:
        capture |= {"WIRESPAN_CAPTURE_MEETING": "true"}
        enricher |= {
            "WIRESPAN_ENRICHER_INTAKE": "true",
            "WIRESPAN_ENRICHER_INTAKE_GRPC_PORT": str(plan.intake_port),
            "WIRESPAN_ENRICHER_INTAKE_HTTP_PORT": "0",
            "WIRESPAN_ENRICHER_INTAKE_NODE": plan.node,
        }
    # A run that ends says what was refused; waiting for better credentials would keep it from ending.
    exporter = {} if plan.loop or plan.live else {"WIRESPAN_EXPORTER_UNAUTHORIZED": "dead_letter"}
    if not any(environ.get(name) for name in _HOW_MUCH):
        # One machine's spans, or one file's, are looked at closely and cost little.
        exporter["WIRESPAN_EXPORTER_ATTRIBUTES"] = "full"
    return [
        _command(EXPORTER, folder, exporter | plan.destination.environ(environ)),
        # A capture is not of the cluster that this environment happens to know, unless that is said.
        _command(ENRICHER, folder, {"WIRESPAN_KUBE_API": "off", **environ, **enricher}),
        _command(CAPTURE, folder, {**environ, **capture}, ends=not (plan.loop or plan.live)),
    ]


def _live_settings(environ: Mapping[str, str], own_ports: Sequence[int]) -> dict[str, str]:
    """What a person who looks at one machine wants: more than a node of a cluster needs to tell. Their own settings go first.

    The run's own ports are left out whatever they say, or each batch of records would be traffic to tell of in the next.
    """
    denied = [*filter(None, [environ.get("WIRESPAN_CAPTURE_DENY_PORTS")]), *map(str, own_ports)]
    return {
        "WIRESPAN_CAPTURE_LOOPBACK": environ.get("WIRESPAN_CAPTURE_LOOPBACK") or "true",
        "WIRESPAN_CAPTURE_PROCESS_NAMES": environ.get("WIRESPAN_CAPTURE_PROCESS_NAMES") or "true",
        "WIRESPAN_CAPTURE_ACTIVE_INTERVAL_SECONDS": environ.get("WIRESPAN_CAPTURE_ACTIVE_INTERVAL_SECONDS") or "5",
        "WIRESPAN_CAPTURE_DENY_PORTS": ",".join(denied),
    }


def free_port() -> int:
    """Return a port of the loopback that nobody has, and that no client is given before who asked for it listens there."""
    first, last = map(int, _CLIENTS_PORTS.read_text(encoding="ascii").split())
    candidates = [port for port in range(_LOWEST_PORT, 1 << 16) if not first <= port <= last]
    for port in random.SystemRandom().sample(candidates, len(candidates)):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def bus_ports(urls: str) -> list[int]:
    """Return the ports in one URL of NATS, or in several separated by commas."""
    found = (urlsplit(url if "://" in url else f"nats://{url}") for url in urls.replace(" ", "").split(",") if url)
    return sorted({url.port or _NATS_PORT for url in found})


def _command(name: str, folder: RunFolder, environ: Mapping[str, str], *, ends: bool = False) -> Command:
    return Command(
        name=name,
        # -P: a folder called `services` where the command is run must not be taken for ours.
        arguments=(sys.executable, "-P", "-m", f"services.{name}"),
        environ=environ,
        log_path=folder.log(name),
        ends=ends,
        fatal_exits=frozenset({2, NOT_A_CAPTURE, NOT_TAPPED}),
    )


def _environ(plan: Plan, embedded: BusSettings | None) -> dict[str, str]:
    """What all services get: this process's environment, and what a run of its own needs to be different."""
    environ = dict(os.environ)
    if embedded is not None:
        environ = {
            name: value for name, value in environ.items() if not name.startswith(("WIRESPAN_NATS_", "WIRESPAN_STREAMS_"))
        }
        environ |= embedded.environ()
        # What a killed service had in hand comes back soon: the consumers are nobody else's.
        for service in (ENRICHER, EXPORTER):
            environ[f"WIRESPAN_{service.upper()}_ACK_WAIT_SECONDS"] = _ACK_WAIT_SECONDS
    elif plan.bus is not None:
        environ["WIRESPAN_NATS_URL"] = plan.bus.nats.url
    if plan.cluster_name is not None:
        environ["WIRESPAN_CLUSTER_NAME"] = plan.cluster_name
    for service in (CAPTURE, ENRICHER, EXPORTER):
        # A run that is ended early is not carried on later: waiting longer for a backend that is away saves nothing.
        environ[f"WIRESPAN_{service.upper()}_DRAIN_SECONDS"] = "3"
    environ["WIRESPAN_LOG_FORMAT"] = "json"
    environ["WIRESPAN_HEALTH_PORT"] = "0"  # three processes cannot share one port
    environ["PYTHONPATH"] = os.pathsep.join([_SOURCES, *filter(None, [os.environ.get("PYTHONPATH")])])
    return environ
