"""Applications under load, of the kind that people run: servers in processes of their own, and what asks them.

Each says how much it does when it is asked as fast as it can be (`saturate`), and answers one question at a time (`ask`) for
the latencies at a steady rate. What a machine lacks (redis-server, nginx with wrk, iperf3) is left out.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.support.ports import free_port

VALUE_BYTES = 64
ANSWER_SECONDS = 60
"""The longest wait for anything: a server that does not answer ends a run, and is not waited for."""
_CLIENTS = "50"
_ECHO = "/bench.Echo/Echo"
_GRPC_SERVER = f"""
import sys
from concurrent import futures
import grpc
handler = grpc.unary_unary_rpc_method_handler(lambda body, _: body)
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler({_ECHO.split("/")[1]!r}, {{"Echo": handler}}),))
server.add_insecure_port("127.0.0.1:" + sys.argv[1])
server.start()
server.wait_for_termination()
"""


@dataclass(frozen=True)
class Load:
    """A server that runs."""

    pids: tuple[int, ...]
    """Its processes."""
    saturate: Callable[[float], float]
    """Ask as fast as it answers for so many seconds; what it did a second."""
    ask: Callable[[], None] | None = None
    """Ask one question and await its answer; None where there is no such thing."""
    unit: str = "requests/s"


def _started(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def _running(*command: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server, once it takes connections, and until the context ends."""
    process = _started(*command)
    over = time.monotonic() + ANSWER_SECONDS
    try:
        while True:
            assert process.poll() is None, f"{command[0]} ended"
            assert time.monotonic() < over, f"{command[0]} takes no connection"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Have it end, by force where it does not in its time."""
    process.terminate()
    try:
        process.wait(ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _asker(port: int, question: bytes, answer_bytes: int) -> Callable[[], None]:
    """What asks over one connection, where each answer has so many bytes."""
    connection = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask() -> None:
        connection.sendall(question)
        left = answer_bytes
        while left:
            left -= len(connection.recv(left) or sys.exit("the server ended"))

    return ask


@contextlib.contextmanager
def redis(clients: str = _CLIENTS, test: str = "get") -> Iterator[Load]:
    """Redis, asked for values of 64 bytes by so many clients, or `test` of redis-benchmark."""
    port = free_port()
    command = ("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
    with tempfile.TemporaryDirectory() as folder, _running(*command, "--dir", folder, port=port) as process:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"SET key:__rand_int__ %s\r\n" % (b"x" * VALUE_BYTES))
            connection.recv(100)
        rate = 20_000.0

        def saturate(seconds: float) -> float:
            nonlocal rate
            said = subprocess.run(
                ["redis-benchmark", "-p", str(port), "-c", clients, "-t", test, "-n", str(round(rate * seconds)), "--csv"],
                capture_output=True, text=True, check=True, timeout=seconds + ANSWER_SECONDS,
            ).stdout.splitlines()[-1]  # fmt: skip
            rate = float(said.split(",")[1].strip('"'))
            return rate

        saturate(0.5)
        question, answer_bytes = b"GET key:__rand_int__\r\n", len(f"${VALUE_BYTES}\r\n\r\n") + VALUE_BYTES
        yield Load((process.pid,), saturate, _asker(port, question, answer_bytes))


@contextlib.contextmanager
def turns() -> Iterator[Load]:
    """One byte there, a few back, over one connection, as netperf's TCP_RR has it: PING of Redis."""
    with redis("1", "ping_inline") as load:
        yield load


@contextlib.contextmanager
def grpc_echo() -> Iterator[Load]:
    """Unary calls of 64 bytes, sixteen under way."""
    port = free_port()
    with (
        _running(sys.executable, "-c", _GRPC_SERVER, str(port), port=port) as process,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call = channel.unary_unary(_ECHO)
        body = bytes(VALUE_BYTES)

        def saturate(seconds: float) -> float:
            over, done, waiting = time.monotonic() + seconds, 0, [call.future(body) for _ in range(16)]
            while time.monotonic() < over:
                waiting.pop(0).result(ANSWER_SECONDS)
                waiting.append(call.future(body))
                done += 1
            for one in waiting:
                one.result(ANSWER_SECONDS)
            return (done + len(waiting)) / seconds

        saturate(0.5)
        yield Load((process.pid,), saturate, lambda: call(body, timeout=ANSWER_SECONDS))


@contextlib.contextmanager
def nginx() -> Iterator[Load]:
    """Nginx with keep-alive, asked by wrk for a page of 64 bytes."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log /dev/null; events {{}}\n"
            f"http {{ access_log off; keepalive_requests 1000000000;\n"
            f"client_body_temp_path {folder}; proxy_temp_path {folder};\n"
            f"fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 '{'x' * VALUE_BYTES}'; }} }} }}\n"
        )
        with _running("nginx", "-c", str(config), port=port) as process:

            def saturate(seconds: float) -> float:
                command = ["wrk", "-t1", f"-c{_CLIENTS}", f"-d{max(1, round(seconds))}s", f"http://127.0.0.1:{port}/"]
                limit = seconds + ANSWER_SECONDS
                said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=limit).stdout
                found = re.search(r"Requests/sec:\s+([0-9.]+)", said)
                return float(found[1]) if found else 0.0

            question = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(question)
                time.sleep(0.2)
                answer_bytes = len(connection.recv(4096))
            yield Load((process.pid,), saturate, _asker(port, question, answer_bytes))


@contextlib.contextmanager
def bulk() -> Iterator[Load]:
    """iperf3, one connection."""
    port = free_port()
    with _running("iperf3", "-s", "-B", "127.0.0.1", "-p", str(port), port=port) as process:
        time.sleep(0.5)  # the look whether it listens was a client to it

        def saturate(seconds: float) -> float:
            command = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-t", str(max(1, round(seconds))), "-J"]
            said = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=seconds + ANSWER_SECONDS).stdout)
            return float(said["end"]["sum_received"]["bits_per_second"]) / 1e9

        yield Load((process.pid,), saturate, None, "Gbit/s")


LOADS = {
    "Redis GET, 50 clients": (redis, ("redis-server", "redis-benchmark")),
    "turns, one connection": (turns, ("redis-server", "redis-benchmark")),
    "gRPC echo": (grpc_echo, ()),
    "nginx, keep-alive": (nginx, ("nginx", "wrk")),
    "bulk": (bulk, ("iperf3",)),
}
"""By name: what starts it, and the programs that it needs."""


def lacking(programs: tuple[str, ...]) -> list[str]:
    """Those that this machine has not."""
    return [program for program in programs if shutil.which(program) is None]
