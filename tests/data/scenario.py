"""The conversations in the bundled capture: who talks to whom, from which port, what happens, and what must be seen of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from tests.data import workloads
from tests.data.cluster import BLACKHOLE, EXTERNAL_CLIENT, INGRESS_ADDRESS, NODES, pod, service
from tests.data.shop import LATE_ANSWER_SECONDS, PAYMENT_SECONDS, Lab
from tests.data.workloads import AAAA, A, Stream

ECHO_IDENTIFIER: Final = 0x5749
UPLOAD_BYTES: Final = 300 * 1024
SLOW_COMMAND_SECONDS: Final = 0.25

_FRONTEND_1, _FRONTEND_2, _CART = pod("frontend", 0), pod("frontend", 1), pod("cart")
_INGRESS, _PROMETHEUS, _BACKUP = pod("ingress-nginx"), pod("prometheus"), pod("nightly-backup")
_REDIS, _DNS = pod("redis"), service("kube-dns").address

Run: TypeAlias = Callable[["Conversation", Lab], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation as the capture shows it, `local` being the initiator, and what is true of it.

    `responses` counts requests that were answered, `slowest_response_seconds` is the least that the slowest took.
    """

    client: str
    server: str
    transport: str
    local: tuple[str, int]
    remote: tuple[str, int]
    what: str
    run: Run
    outcome: str = "closed"
    closed_by: str = "client"
    responses: int = 0
    slowest_response_seconds: float = 0.0
    syn_repeats: int = 0
    begin_seconds: float = 0.0
    """When it begins, after the recording does."""
    joined_late: bool = False
    """Its handshake was before the recording."""
    dialled: tuple[str, int] | None = None
    """What the client connects to where that is translated before it reaches the capture point."""

    async def connect(self, lab: Lab, seconds: float = 10) -> Stream:
        """Open it; TCP only."""
        return await workloads.connect(lab.namespaces[self.client], self.local, self.dialled or self.remote, seconds)


def _get(
    path: str, times: int = 1, pause_seconds: float = 0.0, method: str = "GET", body: bytes = b"", *, trace: int = 0
) -> Run:
    """Requests over one connection, with think time between them, which the client then closes (or sees closed)."""

    async def run(conversation: Conversation, lab: Lab) -> None:
        stream = lab.opened.pop(conversation.local[1], None) or await conversation.connect(lab)
        host = conversation.server.split("-")[0]
        for number in range(times):
            if number:
                await asyncio.sleep(pause_seconds)
            context = f"00-{trace + number:032x}-{0xB7AD6B7169203331 + number:016x}-01" if trace else ""
            await workloads.http_request(stream, host, method, path.format(number), body=body, trace=context)
        if conversation.closed_by == "server":
            await stream[0].read()
        if conversation.closed_by != "none":
            await workloads.finish(stream)
        else:
            lab.upstreams[f"port {conversation.local[1]}"] = stream

    return run


def _held(name: str) -> Run:
    """A connection that a server in the middle uses; opened at the start, closed with everything."""

    async def run(conversation: Conversation, lab: Lab) -> None:
        lab.upstreams[name] = await conversation.connect(lab)

    return run


async def _redis_session(conversation: Conversation, lab: Lab) -> None:
    stream = await conversation.connect(lab)
    async with lab.redis_lock:
        await workloads.redis_command(stream, "PING")
        for number in range(6):
            await workloads.redis_command(stream, "SET", f"cart:{number}", f'{{"items": {number + 1}}}')
    lab.upstreams["redis"] = stream
    await asyncio.sleep(1.2)
    async with lab.redis_lock:
        await workloads.redis_command(stream, "DEBUG", "SLEEP", str(SLOW_COMMAND_SECONDS))


async def _redis_short(conversation: Conversation, lab: Lab) -> None:
    stream = await conversation.connect(lab)
    await workloads.redis_command(stream, "PING")
    await workloads.redis_command(stream, "GET", "absent")
    await workloads.finish(stream)


async def _refused(conversation: Conversation, lab: Lab) -> None:
    with contextlib.suppress(ConnectionRefusedError):
        await conversation.connect(lab)
        raise AssertionError("the port was to refuse")


async def _blackholed(conversation: Conversation, lab: Lab) -> None:
    with contextlib.suppress(TimeoutError):
        await conversation.connect(lab, seconds=3.5)
        raise AssertionError("nobody was to answer")


async def _gives_up(conversation: Conversation, lab: Lab) -> None:
    stream = await conversation.connect(lab)
    await workloads.http_request(stream, "payments", "GET", "/healthz")
    asking = asyncio.ensure_future(workloads.http_request(stream, "payments", "POST", "/pay", body=b'{"cart": 7}'))
    await asyncio.sleep(PAYMENT_SECONDS / 2)
    asking.cancel()
    workloads.reset(stream)


async def _broken_off(conversation: Conversation, lab: Lab) -> None:
    stream = await conversation.connect(lab)
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        await workloads.http_request(stream, "payments", "GET", "/statement")
        raise AssertionError("the response was to break off")
    stream[1].close()


def _lookup(*questions: tuple[str, int]) -> Run:
    """Questions sent at once from one port, and as many answers, but no longer than a second."""

    async def run(conversation: Conversation, lab: Lab) -> None:
        asking = lab.namespaces[conversation.client].socket(socket.AF_INET, socket.SOCK_DGRAM)
        asking.settimeout(0)
        with asking:
            asking.bind(conversation.local)
            asking.connect(conversation.remote)
            loop = asyncio.get_running_loop()
            for number, (name, kind) in enumerate(questions, conversation.local[1]):
                await loop.sock_sendall(asking, workloads.dns_query(number, name, kind))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    for _ in questions:
                        await loop.sock_recv(asking, 512)

    return run


async def _statsd(conversation: Conversation, lab: Lab) -> None:
    with lab.namespaces[conversation.client].socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.bind(conversation.local)
        for number in range(2):
            sending.sendto(b"shop.checkout:%d|c" % (number + 1), conversation.remote)
            await asyncio.sleep(0.2)


def _ping(times: int) -> Run:
    async def run(conversation: Conversation, lab: Lab) -> None:
        family = workloads.family_of(conversation.local[0])
        protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
        with lab.namespaces[conversation.client].socket(family, socket.SOCK_RAW, protocol) as echoing:
            for number in range(1, times + 1):
                echoing.sendto(workloads.icmp_echo(family, ECHO_IDENTIFIER, number), (conversation.remote[0], 0))
                await asyncio.sleep(0.3)

    return run


def _tcp(ends: tuple[str, str], port: int, remote: tuple[str, int], what: str, run: Run, **truth: object) -> Conversation:
    client, server = ends
    version6 = ":" in remote[0]
    addresses = {found.name: (found.address6 if version6 else found.address) for found in _CLIENTS}
    addresses |= {"worker-a": NODES[0].bridge, "internet": EXTERNAL_CLIENT}
    return Conversation(client, server, "tcp", (addresses[client], port), remote, what, run, **truth)  # type: ignore[arg-type]


def _dns(client: str, port: int, what: str, *questions: tuple[str, int], **truth: object) -> Conversation:
    local = (next(found.address for found in _CLIENTS if found.name == client), port)
    truth = {"outcome": "unknown", "closed_by": "none", "responses": 1} | truth
    return Conversation(client, "kube-dns", "udp", local, (_DNS, 53), what, _lookup(*questions), **truth)  # type: ignore[arg-type]


_CLIENTS: Final = (_FRONTEND_1, _FRONTEND_2, _CART, _INGRESS, _PROMETHEUS, _BACKUP)
_HTTP, _HTTP6, _PAGES = (_CART.address, 8080), (_CART.address6, 8080), (_FRONTEND_1.address, 8080)
_PAYMENTS = (service("payments").address, 80)
_ARCHIVE = (service("archive").address, 9000)
_OPEN: Final = {"outcome": "established", "closed_by": "none"}

CONVERSATIONS: Final = (
    # What stands before anything else
    _tcp((_PROMETHEUS.name, "frontend"), 40001, (_FRONTEND_2.address, 8080),
         "scrapes over a connection older than the capture, left open", _get("/metrics", 2, 1.5),
         outcome="unknown", closed_by="none", responses=2, begin_seconds=0.5, joined_late=True),
    _tcp((_CART.name, "redis"), 40002, (_REDIS.address, 6379),
         "PING, SETs, a GET for each cart, one slow command; left open", _redis_session,
         **_OPEN, responses=19, slowest_response_seconds=SLOW_COMMAND_SECONDS),
    _tcp((_INGRESS.name, "frontend"), 40003, _PAGES,
         "the ingress' upstream connection, left open", _held("ingress"), **_OPEN, responses=2),
    _tcp((_FRONTEND_1.name, "cart"), 40004, _HTTP, "the frontend's connection for pages, left open",
         _held("pages"), **_OPEN, responses=2),
    # HTTP
    _tcp(("internet", "ingress-nginx"), 50001, (_INGRESS.address, 80),
         "two pages from outside through the LoadBalancer, over ingress, frontend, cart and redis", _get("/", 2, 0.25),
         responses=2, begin_seconds=0.5, dialled=(INGRESS_ADDRESS, 80)),
    _tcp((_FRONTEND_1.name, "cart"), 40010, _HTTP, "six requests with think time, kept alive, each with a traceparent",
         _get("/cart/{}", 6, 0.2, trace=0x0AF7651916CD43DD8448EB211C80319C), responses=6, begin_seconds=0.7),
    _tcp((_FRONTEND_2.name, "cart"), 40011, _HTTP6, "three requests over IPv6",
         _get("/cart/{}", 3, 0.1), responses=3, begin_seconds=0.9),
    _tcp((_FRONTEND_1.name, "payments"), 40012, _PAYMENTS, "two slow requests through a ClusterIP; the server closes",
         _get("/pay", 2, 0.3, "POST", b'{"cart": 7}'), closed_by="server", responses=2,
         slowest_response_seconds=PAYMENT_SECONDS, begin_seconds=1.0),
    _tcp(("worker-a", "cart"), 40013, _HTTP,
         "the kubelet's probe, from the bridge's address; the server closes", _get("/healthz"),
         closed_by="server", responses=1, begin_seconds=1.1),
    _tcp((_PROMETHEUS.name, "kube-proxy"), 40014, (NODES[0].address, 10249), "a pod of the host network, on this node",
         _get("/metrics"), responses=1, begin_seconds=1.3),
    _tcp((_PROMETHEUS.name, "kube-proxy"), 40015, (NODES[1].address, 10249), "a pod of the host network, on the other node",
         _get("/metrics"), responses=1, begin_seconds=1.4),
    # Redis
    _tcp((_CART.name, "redis"), 40016, (_REDIS.address, 6379), "PING and a GET that finds nothing", _redis_short,
         responses=2, begin_seconds=0.6),
    # What goes wrong
    _tcp((_FRONTEND_2.name, "legacy"), 40020, (service("legacy").address, 8081), "nobody listens", _refused,
         outcome="refused", closed_by="server", begin_seconds=0.8),
    _tcp((_FRONTEND_2.name, "internet"), 40021, (BLACKHOLE, 443),
         "three SYNs, never answered", _blackholed,
         outcome="timeout", closed_by="none", syn_repeats=2, begin_seconds=1.2),
    _tcp((_FRONTEND_1.name, "payments"), 40022, _PAYMENTS,
         "the client gives up waiting for its second answer and resets", _gives_up,
         outcome="reset", responses=1, begin_seconds=2.2),
    _tcp((_FRONTEND_1.name, "payments"), 40023, _PAYMENTS, "the server resets after a part of its response", _broken_off,
         outcome="reset", closed_by="server", responses=1, begin_seconds=2.4),
    _tcp((_BACKUP.name, "archive"), 40024, _ARCHIVE, "300 KiB up; every 25th data segment is lost beyond the capture point",
         _get("/backup.tar", 1, 0.0, "PUT", bytes(range(256)) * (UPLOAD_BYTES // 256)), responses=1, begin_seconds=1.6),
    _tcp((_BACKUP.name, "archive"), 40025, _ARCHIVE, "120 KiB down; every 20th data segment is lost before the capture point",
         _get("/backup.tar"), responses=1, begin_seconds=2.8),
    # UDP
    _dns(_FRONTEND_1.name, 40030, "A and AAAA at once from one port", ("cart.shop.svc.cluster.local", A),
         ("cart.shop.svc.cluster.local", AAAA), responses=2, begin_seconds=0.65),
    _dns(_FRONTEND_2.name, 40031, "AAAA", ("cart.shop.svc.cluster.local", AAAA), begin_seconds=0.85),
    _dns(_CART.name, 40032, "A", ("redis.shop.svc.cluster.local", A), begin_seconds=0.55),
    _dns(_FRONTEND_1.name, 40033, "A", ("payments.shop.svc.cluster.local", A), begin_seconds=0.95),
    _dns(_BACKUP.name, 40034, "A", ("archive.shop.svc.cluster.local", A), begin_seconds=1.55),
    _dns(_FRONTEND_2.name, 40035, "a late answer", ("partner-api.example.com", A), begin_seconds=1.0,
         slowest_response_seconds=LATE_ANSWER_SECONDS),
    _dns(_FRONTEND_2.name, 40036, "never answered", ("licence.example.net", A), responses=0, begin_seconds=1.25),
    _dns(_CART.name, 40037, "NXDOMAIN", ("catalogue.shop.svc.cluster.local", A), begin_seconds=1.5),
    Conversation(_FRONTEND_2.name, "prometheus", "udp", (_FRONTEND_2.address, 40038), (_PROMETHEUS.address, 8125),
                 "two statsd datagrams to a closed port: ICMP says unreachable", _statsd, "unknown", "none", begin_seconds=1.7),
    # ICMP
    Conversation(_PROMETHEUS.name, "redis", "icmp", (_PROMETHEUS.address, 0), (_REDIS.address, 0), "three echoes", _ping(3),
                 "unknown", "none", begin_seconds=1.8),
    Conversation(_FRONTEND_2.name, "cart", "icmpv6", (_FRONTEND_2.address6, 0), (_CART.address6, 0), "two echoes over IPv6",
                 _ping(2), "unknown", "none", begin_seconds=1.9),
)  # fmt: skip
"""Every conversation of the capture, and no other TCP or UDP one is in it."""


def conversation_table() -> str:
    """The conversations as a Markdown table."""
    lines = [
        "| client | server | transport | from | to | what happens | outcome | closed by | responses | slowest, at least |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for found in CONVERSATIONS:
        ends = [f"`{address}`" if not port else f"`{address}`:{port}" for address, port in (found.local, found.remote)]
        slowest = f"{found.slowest_response_seconds * 1000:.0f} ms" if found.slowest_response_seconds else ""
        cells = (
            found.client,
            found.server,
            found.transport,
            *ends,
            found.what,
            found.outcome,
            found.closed_by,
            found.responses,
            slowest,
        )
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)
