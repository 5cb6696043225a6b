"""What runs in the shop's pods: handlers that call one another over connections the conversations opened."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.data import workloads
from tests.data.cluster import BLACKHOLE, NODES, pod, service
from tests.data.workloads import AAAA, NO_ANSWER, A, HttpResponse, Serve, Stream
from tests.support.node.namespaces import Namespace

DOWNLOAD_BYTES: Final = 120 * 1024
LATE_ANSWER_SECONDS: Final = 0.15
PAYMENT_SECONDS: Final = 0.4

_DNS_RECORDS: Final = {
    ("cart.shop.svc.cluster.local", A): (pod("cart").address,),
    ("cart.shop.svc.cluster.local", AAAA): (pod("cart").address6,),
    ("redis.shop.svc.cluster.local", A): (pod("redis").address,),
    ("payments.shop.svc.cluster.local", A): (service("payments").address,),
    ("archive.shop.svc.cluster.local", A): (service("archive").address,),
    ("partner-api.example.com", A): (BLACKHOLE,),
}
_DNS_DELAYS: Final[dict[str, float | str]] = {"partner-api.example.com": LATE_ANSWER_SECONDS, "licence.example.net": NO_ANSWER}


@dataclass(slots=True)
class Lab:
    """The namespaces of the run, by pod or host name, and the connections that programs hold to one another."""

    namespaces: dict[str, Namespace]
    upstreams: dict[str, Stream] = field(default_factory=dict)
    """Connections left open, by what they are called: servers in the middle use theirs for their own requests."""
    redis_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while cart waits for Redis: one command at a time on its one connection."""
    opened: dict[int, Stream] = field(default_factory=dict)
    """Connections that were there before the recording began, by local port."""
    stored: list[bytes] = field(default_factory=list)
    """What the archive was given."""
    payments: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def close(self) -> None:
        """Close what the conversations left open."""
        for stream in self.upstreams.values():
            stream[1].close()

    async def frontend(self, request: str, _body: bytes) -> HttpResponse:
        """A page made of a cart, or metrics."""
        if request == "GET /metrics":
            return HttpResponse(body=b"shop_pages_total 12\n" * 40, content_type="text/plain")
        cart = await workloads.http_request(self.upstreams["pages"], "cart", "GET", "/cart/1")
        return HttpResponse(body=b"<!doctype html><title>shop</title>" + cart * 60, content_type="text/html")

    async def ingress(self, request: str, _body: bytes) -> HttpResponse:
        """Whatever the frontend says."""
        body = await workloads.http_request(self.upstreams["ingress"], "shop.example", *request.split())
        return HttpResponse(body=body, content_type="text/html")

    async def cart(self, request: str, _body: bytes) -> HttpResponse:
        """A cart out of Redis, or the probe's answer."""
        if request == "GET /healthz":
            return HttpResponse(body=b"ok", close=True)
        async with self.redis_lock:
            found = await workloads.redis_command(self.upstreams["redis"], "GET", f"cart:{request.rpartition('/')[2]}")
        return HttpResponse(body=found)

    async def pay(self, request: str, _body: bytes) -> HttpResponse:
        """Slow where money is moved; after the second payment the connection is closed."""
        if request == "GET /healthz":
            return HttpResponse(body=b"ok")
        if request == "GET /statement":
            return HttpResponse(body=b"a line of the statement\n" * 200, reset_after=1024)
        await asyncio.sleep(PAYMENT_SECONDS)
        return HttpResponse(201, b'{"paid": true}', close=next(self.payments) == 2)

    async def archive(self, request: str, body: bytes) -> HttpResponse:
        """Keeps what is put there and gives a part of it back."""
        if request.startswith("PUT"):
            self.stored.append(body)
            return HttpResponse(201)
        return HttpResponse(body=self.stored[0][:DOWNLOAD_BYTES], content_type="application/x-tar")


async def proxy_metrics(_request: str, _body: bytes) -> HttpResponse:
    """What kube-proxy says of itself."""
    return HttpResponse(body=b"kubeproxy_sync_proxy_rules_total 4\n" * 20, content_type="text/plain")


@contextlib.asynccontextmanager
async def serving_everything(lab: Lab) -> AsyncIterator[None]:
    """All servers of the cluster."""
    cart = workloads.http(lab.cart)
    servers: list[tuple[str, str, int, Serve]] = [
        *(
            (pod("frontend", number).name, pod("frontend", number).address, 8080, workloads.http(lab.frontend))
            for number in (0, 1)
        ),
        *((pod("cart").name, address, 8080, cart) for address in (pod("cart").address, pod("cart").address6)),
        (pod("ingress-nginx").name, pod("ingress-nginx").address, 80, workloads.http(lab.ingress)),
        (pod("payments").name, pod("payments").address, 8080, workloads.http(lab.pay)),
        (pod("archive").name, pod("archive").address, 9000, workloads.http(lab.archive)),
        (pod("redis").name, pod("redis").address, 6379, workloads.redis()),
        *((node.name, node.address, 10249, workloads.http(proxy_metrics)) for node in NODES),
    ]
    async with contextlib.AsyncExitStack() as stack:
        for name, address, port, serve in servers:
            await stack.enter_async_context(workloads.serving(lab.namespaces[name], address, port, serve))
        listening = lab.namespaces[pod("kube-dns").name].socket(socket.AF_INET, socket.SOCK_DGRAM)
        listening.bind((pod("kube-dns").address, 53))
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: workloads.DnsServer(_DNS_RECORDS, _DNS_DELAYS), sock=listening
        )
        stack.callback(transport.close)
        yield
