"""The faults of a run: each a context in which something is wrong. What it breaks is whole again when it is left."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

import grpc

from proto.subjects import CACHE_STREAM
from tests.chaos.links import State
from tests.chaos.members import Member
from tests.chaos.servers import has_disks, route
from tests.chaos.world import STREAMS, World, has_clock_steps
from tests.support.pipeline.otlp_receiver import Accept, Answer, PartialSuccess, Refuse, Stall, TakeAndDrop

SERVICES: Final = ("capture", "enricher", "exporter")
_DOWN_SECONDS: Final = 1.0
_OFF_SECONDS: Final = 4.0
"""A machine that boots: longer, or not, than messages are kept."""
_SUSPENDED_SECONDS: Final = (2.0, 6.0)
_SLOW_SECONDS: Final = (1.0, 2.5)
"""Before the exporter has had enough of waiting for an answer, and after: then it sends again what was taken."""
_NETWORK: Final[tuple[tuple[str, State], ...]] = (
    ("connection cut", "cut"),
    ("no packet passes", "silent"),
    ("half-open", "half_open"),
)
_APART_SECONDS: Final = (0.0, 12.0)
"""Less, or more, than it takes servers to notice that a leader is gone, and to have another one."""
_HOUR: Final = 3600
_CUTS: Final = 3


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault."""

    name: str
    begin: Callable[[World], AbstractContextManager[None]]
    alone: bool = False
    """Never together with another: what it destroys nobody promises to have kept elsewhere, if another stage is stopped."""
    servers: int = 0
    """Only where there are so many; 0 for any."""
    on_plain_disk: bool = False
    """Only where the disk cannot lose power: the model of one that can needs room of its own, to know what is synced."""
    possible: Callable[[World], bool] = lambda _world: True
    refuses: bool = False
    """What it makes of spans are dead letters, which are put back afterwards."""


def _some(world: World, service: str) -> list[Member]:
    """One replica of a service, or all."""
    replicas = world.named(service)
    return replicas if world.chance.random() < 0.3 else [world.chance.choice(replicas)]


def _kill(service: str) -> Callable[[World], AbstractContextManager[None]]:
    @contextmanager
    def begin(world: World) -> Iterator[None]:
        for member in _some(world, service):
            member.kill()
        yield
        for member in _some(world, service):
            member.kill()

    return begin


def _pause(service: str) -> Callable[[World], AbstractContextManager[None]]:
    @contextmanager
    def begin(world: World) -> Iterator[None]:
        members = _some(world, service)
        for member in members:
            member.pause()
        try:
            yield
        finally:
            for member in members:
                member.go_on()

    return begin


def _stall(service: str) -> Callable[[World], AbstractContextManager[None]]:
    @contextmanager
    def begin(world: World) -> Iterator[None]:
        for member in _some(world, service):
            member.stall()
        yield

    return begin


@contextmanager
def _suspended(world: World) -> Iterator[None]:
    """All of it stands still, and an hour has passed when it goes on."""
    members = [member for service in SERVICES for member in world.named(service)]
    for member in members:
        member.pause()
    for server in world.servers:
        server.nats.send_signal(signal.SIGSTOP)
    world.step_clock(_HOUR)
    time.sleep(world.chance.uniform(*_SUSPENDED_SECONDS))
    for server in world.servers:
        server.nats.send_signal(signal.SIGCONT)
    for member in members:
        member.go_on()
    try:
        yield
    finally:
        world.step_clock(0)


def _network(pattern: str, state: State) -> Callable[[World], AbstractContextManager[None]]:
    def begin(world: World) -> AbstractContextManager[None]:
        links = [name for name in world.network.links if re.search(pattern, name)]
        return _links(world, links if world.chance.random() < 0.5 else [world.chance.choice(links)], state)

    return begin


def _routes(state: State, *, of_leader: bool) -> Callable[[World], AbstractContextManager[None]]:
    """Between two servers of a cluster, or between a stream's leader and all others. Their clients reach them all the same."""

    @contextmanager
    def begin(world: World) -> Iterator[None]:
        one = world.leader(world.chance.choice(list(STREAMS)))
        others = [number for number in range(len(world.servers)) if number != one]
        apart = others if of_leader else [world.chance.choice(others)]
        with _links(world, [route(*pair) for other in apart for pair in ((one, other), (other, one))], state):
            time.sleep(world.chance.uniform(*_APART_SECONDS))
            yield

    return begin


@contextmanager
def _links(world: World, names: list[str], state: State) -> Iterator[None]:
    for name in names:
        world.network.become(name, state)
    try:
        yield
    finally:
        for name in names:
            world.network.become(name, "open")


def _answering(*answers: Answer) -> Callable[[World], AbstractContextManager[None]]:
    @contextmanager
    def begin(world: World) -> Iterator[None]:
        world.backend.default = world.chance.choice(answers)
        try:
            yield
        finally:
            world.backend.default = Accept()
            world.backend.release()

    return begin


@contextmanager
def _backend_down(world: World) -> Iterator[None]:
    world.backend.stop()
    try:
        yield
    finally:
        world.backend.start()


@contextmanager
def _new_certificates(world: World) -> Iterator[None]:
    world.backend.stop()
    world.backend._tls = world.new_certificates()
    world.backend.start()
    yield


@contextmanager
def _server_killed(world: World) -> Iterator[None]:
    server = world.chance.choice(world.servers)
    server.nats.kill()
    time.sleep(world.chance.uniform(0, _DOWN_SECONDS))
    if len(world.servers) > 1:
        yield
        server.restart()
    else:
        server.restart()
        yield


@contextmanager
def _server_paused(world: World) -> Iterator[None]:
    server = world.chance.choice(world.servers)
    server.nats.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.nats.send_signal(signal.SIGCONT)


def _power_cut(*, written: float = 0.0) -> Callable[[World], AbstractContextManager[None]]:
    """Of what was not synced this share of the files is on the disk all the same."""

    @contextmanager
    def begin(world: World) -> Iterator[None]:
        server = world.chance.choice(world.servers)
        server.cut_power(lambda: written > 0 and world.chance.random() < written)
        time.sleep(world.chance.uniform(0, _OFF_SECONDS))
        server.restart()
        yield

    return begin


def _power_cut_of_all(*, written: float = 0.0) -> Callable[[World], AbstractContextManager[None]]:
    """A building: all servers, all enrichers and all exporters lose power at once, some times in a row."""

    @contextmanager
    def begin(world: World) -> Iterator[None]:
        for _ in range(_CUTS):
            for member in (*world.named("enricher"), *world.named("exporter")):
                member.kill()
            for server in world.servers:
                server.cut_power(lambda: written > 0 and world.chance.random() < written)
            time.sleep(world.chance.uniform(0, _OFF_SECONDS))
            for server in world.servers:
                server.restart()
            time.sleep(world.chance.uniform(2.0, 4.0))
        yield

    return begin


@contextmanager
def _disk_full(world: World) -> Iterator[None]:
    server = world.chance.choice(world.servers)
    ballast = server.fill_disk()
    try:
        yield
    finally:
        ballast.unlink()
        # A server that could not write has switched JetStream off: its operator makes room and starts it again.
        server.nats.kill()
        server.restart()


@contextmanager
def _stream_full(world: World) -> Iterator[None]:
    stream = world.chance.choice(list(STREAMS))
    config = world.ask(f"STREAM.INFO.{stream}").get("config")
    if config:
        world.ask(f"STREAM.UPDATE.{stream}", config | {"max_bytes": 1024})
    try:
        yield
    finally:
        if config:
            world.ask(f"STREAM.UPDATE.{stream}", config)


def _operator(act: Callable[[World, str], object]) -> Callable[[World], AbstractContextManager[None]]:
    @contextmanager
    def begin(world: World) -> Iterator[None]:
        with contextlib.suppress(OSError, TimeoutError):
            act(world, world.chance.choice(list(STREAMS)))
        yield

    return begin


def _change_consumer(world: World, stream: str) -> None:
    durable = STREAMS[stream]
    config = world.ask(f"CONSUMER.INFO.{stream}.{durable}").get("config")
    if config:
        changed = config | {"max_ack_pending": 1, "ack_wait": 1_000_000_000}
        world.ask(f"CONSUMER.CREATE.{stream}.{durable}", {"stream_name": stream, "config": changed})


@contextmanager
def _clock(world: World) -> Iterator[None]:
    world.step_clock(world.chance.choice((-_HOUR, _HOUR)))
    try:
        yield
    finally:
        world.step_clock(0)


@contextmanager
def _api_server_away(world: World) -> Iterator[None]:
    links = [name for name in world.network.links if name.endswith("/api-server")]
    for name in links:
        world.network.become(name, "cut")
    try:
        yield
    finally:
        for name in links:
            world.network.become(name, "open")


@contextmanager
def _api_server_restored(world: World) -> Iterator[None]:
    with _api_server_away(world):
        world.api_server.restore()
        time.sleep(world.chance.uniform(0, _DOWN_SECONDS))
    world.api_server.change()
    yield


@contextmanager
def _upgrade(world: World) -> Iterator[None]:
    """`helm upgrade`: one server after the other, capture, then enrichers and exporters, a new one before its old one goes."""
    for server in world.servers:
        server.nats.stop()
        server.restart()
        world.wait_replicated()
    world.feeder.terminate()
    for service in ("enricher", "exporter"):
        for member in world.named(service):
            world.replace(member)
    yield


FAULTS: Final = (
    *(Fault(f"{service} killed", _kill(service)) for service in SERVICES),
    *(Fault(f"{service} paused", _pause(service)) for service in SERVICES),
    *(Fault(f"{service}'s event loop stalled", _stall(service)) for service in SERVICES),
    Fault("all suspended for an hour", _suspended, alone=True, possible=lambda _world: has_clock_steps()),
    Fault("nats-server killed", _server_killed, servers=1),
    Fault("one of three nats-servers gone", _server_killed, servers=3),
    Fault("nats-server paused", _server_paused),
    *(
        Fault(f"{service} and NATS: {what}", _network(rf"{service}.*/nats", state))
        for service in SERVICES
        for what, state in _NETWORK
    ),
    *(Fault(f"exporter and backend: {what}", _network("/backend", state)) for what, state in _NETWORK),
    Fault("backend down", _backend_down),
    Fault("backend does not answer", _answering(Stall())),
    Fault("backend slow", _answering(*map(Accept, _SLOW_SECONDS))),
    Fault("backend takes spans and breaks off", _answering(TakeAndDrop())),
    Fault(
        "backend throttles",
        _answering(
            Refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_seconds=0.5),
            Refuse(grpc.StatusCode.UNAVAILABLE, retry_seconds=0.5),
        ),
    ),
    Fault("backend refuses some spans (partial success)", _answering(PartialSuccess(1)), refuses=True),
    Fault("backend restarted with new certificates", _new_certificates),
    *(
        Fault(f"enricher and API server: {what}", _network("/api-server", state))
        for what, state in (("no packet passes", "silent"), ("half-open", "half_open"))
    ),
    Fault("API server down", _api_server_away),
    Fault("API server restored from an older backup", _api_server_restored),
    Fault("all replaced one after the other (an upgrade)", _upgrade),
    Fault("stream full", _stream_full),
    Fault("disk of NATS full", _disk_full, servers=1, on_plain_disk=True, possible=lambda _world: has_disks()),
    Fault("stream deleted", _operator(lambda world, stream: world.ask(f"STREAM.DELETE.{stream}")), alone=True),
    Fault("KUBE_CACHE deleted", _operator(lambda world, _stream: world.ask(f"STREAM.DELETE.{CACHE_STREAM}"))),
    Fault("consumer deleted", _operator(lambda world, stream: world.ask(f"CONSUMER.DELETE.{stream}.{STREAMS[stream]}"))),
    Fault("consumer changed by hand", _operator(_change_consumer)),
    Fault("leader moved", _operator(lambda world, stream: world.ask(f"STREAM.LEADER.STEPDOWN.{stream}")), servers=3),
    *(
        Fault(f"power cut of {whose}{more}", cut(written=written), possible=lambda world: world.has_power_cuts)
        for more, written in (("", 0.0), (", some files written", 0.5))
        for whose, cut in (
            ("NATS' machine", _power_cut),
            ("all of NATS' machines, all enrichers' and exporters'", _power_cut_of_all),
        )
    ),
    Fault("clock stepped by an hour", _clock, possible=lambda _world: has_clock_steps()),
    # Alone: an upgrade, for one, waits for all servers to have caught up.
    *(
        Fault(f"{who}: {what}", _routes(state, of_leader=of_leader), alone=True, servers=3)
        for who, of_leader in (("two nats-servers", False), ("a stream's leader and the other nats-servers", True))
        for what, state in _NETWORK
    ),
)
