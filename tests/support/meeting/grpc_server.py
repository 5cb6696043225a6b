"""A server of gRPC in TLS, whose answers take a while and have any length.

    python -m tests.support.meeting.grpc_server <certificate> <key> <address and port> <least delay, ms> <most>

Prints a line when it serves, and does so until standard input ends.
"""

from __future__ import annotations

import random
import sys
import time
from concurrent import futures
from pathlib import Path

import grpc

SERVICE, METHOD = "calls.Calls", "Call"


def main() -> None:
    """Serve."""
    certificate, key, address, least_ms, most_ms = sys.argv[1:6]
    draw = random.Random(7)

    def call(_asked: bytes, _context: grpc.ServicerContext) -> bytes:
        time.sleep(draw.uniform(float(least_ms), float(most_ms)) / 1e3)  # what a server does for a call
        return b"x" * draw.randrange(20, 40_000)

    server = grpc.server(futures.ThreadPoolExecutor(16))
    handlers = {METHOD: grpc.unary_unary_rpc_method_handler(call)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    credentials = grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(certificate).read_bytes())])
    server.add_secure_port(address, credentials)
    server.start()
    sys.stdout.write("serving\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
