"""Names of programs whose sockets are closed, and of programs that are gone, when their records are made."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from proto.columns import Reason, Role
from proto.flow_batch import decode
from services.capture.live.owners.processes import _sees_all_processes
from services.capture.live.reader import LiveReader
from services.capture.live_options import LiveOptions, TapRules
from tests.support.node.live_capture import reason_to_skip

_reason = reason_to_skip()
pytestmark = [
    pytest.mark.skipif(_reason is not None, reason=_reason or ""),
    pytest.mark.skipif(not _sees_all_processes(), reason="in a PID namespace of its own nobody has a name"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is a client of its own name"),
]

ROUNDS = 40
OURS = Path(sys.executable).resolve().name
# Each makes one connection and is gone at once. A shell connects and becomes another program, which closes nothing.
BECOMES_ANOTHER = "exec 9<>/dev/tcp/127.0.0.1/{port}; exec 9>&-; exec /bin/sh -c 'echo become; read over'"
ANOTHER_THREAD = """
import os, socket, sys, threading
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
name = threading.Thread(target=lambda: (open("/proc/thread-self/comm", "w").write("somebody"), client.close()))
name.start()
name.join()
os._exit(0)
"""
# What execve closes is closed when the process is the other program already.
CLOSED_BY_EXECVE = """
import os, socket, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
os.execv("/bin/sh", ["sh", "-c", "echo become; read over"])
"""
PYTHON = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))).close()"


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@contextmanager
def served() -> Iterator[int]:
    """The port of a server of ours."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def programs(reader: LiveReader, port: int) -> list[tuple[int, str]]:
    """What is told of the clients of a port, each with its own port, which another may have had before."""
    found = []
    for ready in reader.read(Reason.SHUTDOWN):
        for message in ready.messages:
            batch = decode(message.message)
            columns = batch.columns
            for row in range(batch.count):
                if columns["remote_port"][row] == port and columns["role"][row] == Role.CLIENT:
                    owner = int(columns["local_container"][row])
                    told = batch.containers[owner] if owner < len(batch.containers) else {}
                    found.append((int(columns["local_port"][row]), told.get("process", "")))
        reader.accept(ready)
    return found


def test_clients_that_are_gone_have_the_name_that_they_were_started_as(tmp_path: Path) -> None:
    """Each of many: what was copied to a name of its own is told by that name, and none is told by another's."""
    curls = [tmp_path / f"curl-{number}" for number in range(ROUNDS)]
    for curl in curls:
        shutil.copy(shutil.which("curl") or "", curl)
    wanted = []
    with served() as port:
        options = LiveOptions(rules=TapRules(loopback=True, allow_ports=(port,)), process_names=True)
        with LiveReader(node="n", epoch="e", options=options, leave_out_own=False) as reader:
            for curl in curls:
                command = (str(curl), "-s", "-o", os.devnull, "-w", "%{local_port}", f"http://127.0.0.1:{port}/")
                done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
                wanted.append((int(done.stdout), curl.name))
                command = (sys.executable, "-c", PYTHON, str(port))
                subprocess.run(command, check=True, timeout=60)
            told = programs(reader, port)
    assert set(wanted) <= set(told)
    assert [name for _, name in told if not name.startswith("curl-")] == [Path(sys.executable).name] * ROUNDS
    assert len(told) == 2 * ROUNDS


def test_a_task_that_does_not_say_which_program_it_is_names_none() -> None:
    """A thread that is gone with its process, under a name of its own; what is another program by now is told as it was."""
    with served() as port:
        options = LiveOptions(rules=TapRules(loopback=True, allow_ports=(port,)), process_names=True)
        with LiveReader(node="n", epoch="e", options=options, leave_out_own=False) as reader:
            subprocess.run((sys.executable, "-c", ANOTHER_THREAD, str(port)), check=True, timeout=60)
            script = BECOMES_ANOTHER.format(port=port)
            with subprocess.Popen(("bash", "-c", script), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
                assert shell.stdout is not None
                assert shell.stdout.readline() == b"become\n"
                told = programs(reader, port)
    assert sorted(name for _, name in told) == ["", "bash"]


@pytest.mark.parametrize("lives_on", [True, False])
def test_what_execve_closes_is_not_told_as_the_program_that_the_process_becomes(lives_on: bool) -> None:  # noqa: FBT001
    """A socket closed on execve, as Python and Go make them, has no name, whether the other program still runs or not."""
    with served() as port:
        options = LiveOptions(rules=TapRules(loopback=True, allow_ports=(port,)), process_names=True)
        with LiveReader(node="n", epoch="e", options=options, leave_out_own=False) as reader:
            command = (sys.executable, "-c", CLOSED_BY_EXECVE, str(port))
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as becomes:
                assert becomes.stdout is not None
                assert becomes.stdout.readline() == b"become\n"
                if not lives_on:
                    becomes.communicate(timeout=60)
                told = programs(reader, port)
    assert [name for _, name in told] == [""]


def test_a_program_that_lives_on_is_told_by_its_executable() -> None:
    """Also where another thread of it has closed the socket."""
    with served() as port:
        options = LiveOptions(rules=TapRules(loopback=True, allow_ports=(port,)), process_names=True)
        with LiveReader(node="n", epoch="e", options=options, leave_out_own=False) as reader:
            over = threading.Event()
            closed = threading.Event()

            def talk() -> None:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                finally:
                    closed.set()
                over.wait()

            thread = threading.Thread(target=talk, daemon=True)
            thread.start()
            try:
                closed.wait()
                told = programs(reader, port)
            finally:
                over.set()
                thread.join()
    assert [name for _, name in told] == [OURS]
