"""What a customer sees: HTTPS; behind it the catalog (HTTP/1, a new connection each time, by a name) and the cart (gRPC)."""

import ctypes
import json
import os
import socket
import struct
import time

import grpc
import requests
from dns.resolver import Resolver
from faults import is_made
from flask import Flask
from requests.adapters import HTTPAdapter
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler, load_ssl_context

PATIENCE_SECONDS = 3
PAUSE_SECONDS = 0.5
PIECE = 64 * 1024
SO_ATTACH_FILTER = 26
LOSE_ONE_IN_SIXTEEN = (
    (0x20, 0, 0, 0xFFFFF038),  # A = a random number
    (0x54, 0, 0, 15),  # A &= 15
    (0x15, 0, 1, 0),  # if A is not 0, skip one
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)
"""A filter of the kernel's (classic BPF): what it drops did not arrive, as TCP has it. It needs no privilege, and goes with its
socket."""
_INSTRUCTIONS = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in LOSE_ONE_IN_SIXTEEN))
_FILTER = struct.pack("HP", len(LOSE_ONE_IN_SIXTEEN), ctypes.addressof(_INSTRUCTIONS))

app = Flask("frontend")
resolver = Resolver(configure=False)
resolver.nameservers = [os.environ["SHOP_RESOLVER"]]
add_to_cart = grpc.insecure_channel(os.environ["SHOP_CART"]).unary_unary(
    "/shop.Cart/Add", request_serializer=lambda request: json.dumps(request).encode(), response_deserializer=json.loads
)


@app.get("/checkout/<int:number>")
def checkout(number: int) -> tuple[dict[str, object], int]:
    """Look a product and its picture up, and put it into the cart."""
    try:
        product = json.loads(of_catalog(f"products/{number}"))
        of_catalog(f"pictures/{number}")
    except requests.RequestException as error:
        return {"error": str(error)}, 504
    cart = add_to_cart({"user": f"user-{number % 10}", "product": str(number)}, timeout=PATIENCE_SECONDS)
    return {**product, **cart}, 200


def of_catalog(path: str) -> bytes:
    """Return what the catalog has there."""
    name, port = os.environ["SHOP_CATALOG"].split(":")
    address = resolver.resolve(name, "A")[0].to_text()
    with requests.Session() as session:
        session.mount("http://", Adapter())
        response = session.get(f"http://{address}:{port}/{path}", headers={"Host": name}, timeout=PATIENCE_SECONDS, stream=True)
        response.raise_for_status()
        return b"".join(pieces(response))


def pieces(response: requests.Response) -> list[bytes]:
    """Read a response; a slow reader pauses after each piece."""
    found = []
    for piece in response.iter_content(PIECE):
        found.append(piece)
        if is_made("slow-reader"):
            time.sleep(PAUSE_SECONDS)
    return found


class Adapter(HTTPAdapter):
    """Connections that lose what they receive, or have little room for it, where that is the fault."""

    def init_poolmanager(self, *args: object, **kwargs: object) -> None:
        """Say what sockets are to be."""
        options: list[tuple[int, int, int | bytes]] = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        if is_made("slow-reader"):
            options.append((socket.SOL_SOCKET, socket.SO_RCVBUF, 8192))
        if is_made("lossy-path"):
            options.append((socket.SOL_SOCKET, SO_ATTACH_FILTER, _FILTER))
        super().init_poolmanager(*args, **kwargs, socket_options=options)


if __name__ == "__main__":
    address, port = os.environ["SHOP_LISTEN"].split(":")
    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # a customer keeps the connection
    tls = load_ssl_context(f"{os.environ['SHOP_CERTIFICATES']}/server.pem", f"{os.environ['SHOP_CERTIFICATES']}/server.key")
    ThreadedWSGIServer(address, int(port), app, ssl_context=tls).serve_forever()
