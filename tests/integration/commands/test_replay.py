"""`wirespan replay` and `wirespan up` as a user runs them: the real command, its real bus and services, a real backend."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import grpc
import pytest

from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.otlp_receiver import Accept, OtlpReceiver, PartialSuccess, Refuse, Stall

ROOT = Path(__file__).parents[3]
CAPTURE = ROOT / "tests" / "data" / "cluster.pcapng"
SNAPSHOT = ROOT / "tests" / "data" / "cluster.json"
PCAPS = os.environ.get("WIRESPAN_PCAPS")
PATIENCE_SECONDS = 100

pytestmark = pytest.mark.timeout(180)


class Run:
    """One running `wirespan`; nothing of it is left when the context ends."""

    def __init__(self, folder: Path, *arguments: str | Path, stdin: int = subprocess.DEVNULL) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "WIRESPAN_"))}
        environ |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "COLUMNS": "160"}
        self.folder = folder
        self._files = [(folder / name).open("w+b") for name in ("stdout", "stderr")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", *map(str, arguments)],
            cwd=folder,
            env=environ,
            stdin=stdin,
            stdout=self._files[0],
            stderr=self._files[1],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.process.kill()
        self.process.wait()
        for file in self._files:
            file.close()

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return (self.folder / "stderr").read_text()

    def finish(self) -> int:
        """Wait for its end; return its exit status."""
        return self.process.wait(PATIENCE_SECONDS)

    def children(self) -> dict[int, str]:
        """Its child processes: process id and command line."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == self.process.pid:
                    found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def child(self, service: str) -> int:
        """Wait for the process of a service, past its start on the leash; return its id."""
        return wait_for(
            lambda: next(
                (
                    pid
                    for pid, line in self.children().items()
                    if line.endswith(f"-P -m services.{service} ") and "leash" not in line
                ),
                0,
            )
        )


def wait_for(condition):
    """Poll until `condition` gives something true; return it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    pytest.fail("it did not happen")


def spans_in(path: Path) -> Iterator[dict]:
    """Every span of a file of OTLP/JSON lines."""
    for line in path.read_text().splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                yield from scope["spans"]


def ids_in(path: Path) -> list[tuple[str, str]]:
    """Trace and span id of every span in the file, sorted."""
    return sorted((span["traceId"], span["spanId"]) for span in spans_in(path))


def figure(text: str, name: str) -> int:
    """A figure of the printed ledger."""
    found = re.search(rf"^ *{name} +([\d,]+)", text, re.MULTILINE)
    assert found, text
    return int(found[1].replace(",", ""))


def packets_in(path: Path) -> int:
    """Packets in a capture file, counted by tshark; of a file that breaks off, those before the break."""
    command = "tshark", "-n", "-r", path, "-T", "fields", "-e", "frame.number"
    result = subprocess.run(command, capture_output=True, check=False)
    return len(result.stdout.splitlines())


async def ended(pidfds: list[int]) -> None:
    """Wait until every process is gone; the descriptors are closed."""
    loop = asyncio.get_running_loop()
    for pidfd in pidfds:
        over = asyncio.Event()
        loop.add_reader(pidfd, over.set)
        await asyncio.wait_for(over.wait(), PATIENCE_SECONDS)
        loop.remove_reader(pidfd)
        os.close(pidfd)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A backend that accepts unless told otherwise."""
    with OtlpReceiver() as backend:
        yield backend


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> tuple[str, Path]:
    """The bundled capture replayed into a file without any trouble: the printed ledger and the file."""
    folder = tmp_path_factory.mktemp("reference")
    output = folder / "spans.jsonl"
    with Run(folder, "replay", CAPTURE, "--kube-snapshot", SNAPSHOT, "--output", output) as run:
        assert run.finish() == 0, run.stderr
        return run.stdout, output


def test_the_ledger_adds_up(reference) -> None:
    """Packets are tshark's count, accepted spans are those in the file, and nothing was lost on the way."""
    ledger, output = reference
    assert figure(ledger, "packets read") == packets_in(CAPTURE)
    spans = figure(ledger, "spans")
    assert spans > figure(ledger, "records") > figure(ledger, "flows") > 20
    assert figure(ledger, "spans accepted") == spans == len(ids_in(output)) == len(set(ids_in(output)))
    assert (figure(ledger, "spans refused"), figure(ledger, "dead")) == (0, 0)


def test_the_exchanges_of_application_traces_are_in_those_traces(reference) -> None:
    """Every traced request of the capture: a child of its caller's span, with its wait, and linked to its connection's span."""
    ledger, output = reference
    spans = list(spans_in(output))
    exchanges = [span for span in spans if span["name"] == "exchange at capture"]
    assert len(exchanges) == figure(ledger, "exchanges") == 6
    flows = {(span["traceId"], span["spanId"]) for span in spans if span["name"].startswith("tcp")}
    for exchange in exchanges:
        waits = [span for span in spans if span.get("parentSpanId") == exchange["spanId"] and span["name"] == "server wait"]
        assert [wait["traceId"] for wait in waits] == [exchange["traceId"]]
        assert {(link["traceId"], link["spanId"]) for link in exchange["links"]} <= flows
    asked = CAPTURE.read_bytes()
    assert all(f"00-{each['traceId']}-{each['parentSpanId']}-01".encode() in asked for each in exchanges)


def test_nothing_but_the_output_is_left(reference) -> None:
    """The run's temporary folder is gone."""
    _, output = reference
    assert {path.name for path in output.parent.iterdir()} == {"spans.jsonl", "stdout", "stderr"}


def test_the_same_replay_gives_the_same_spans(reference, receiver, tmp_path) -> None:
    """Into a backend as into a file, today as tomorrow: the same ids, so that a repetition changes nothing."""
    _, output = reference
    endpoint = f"http://127.0.0.1:{receiver.http_port}"
    arguments = "replay", CAPTURE, "--kube-snapshot", SNAPSHOT, "--otlp-endpoint", endpoint
    with Run(tmp_path, *arguments, "--otlp-protocol", "http/protobuf") as run:
        assert run.finish() == 0, run.stderr
    assert sorted((trace.hex(), span.hex()) for trace, span in receiver.spans) == ids_in(output)
    assert {request.protocol for request in receiver.requests} == {"http"}


def test_a_killed_exporter_loses_nothing(reference, receiver, tmp_path) -> None:
    """It dies with requests in flight; the one started in its place delivers every span, none with another content."""
    _, output = reference
    receiver.default = Stall()
    with Run(tmp_path, "replay", CAPTURE, "--kube-snapshot", SNAPSHOT, "--otlp-endpoint", receiver.grpc_endpoint) as run:
        wait_for(lambda: receiver.requests)
        os.kill(run.child("exporter"), signal.SIGKILL)
        receiver.default = Accept()
        receiver.release()
        assert run.finish() == 0, run.stderr
        assert "exporter was killed by SIGKILL; starting it again" in run.stderr
        assert figure(run.stdout, "spans accepted") == len(receiver.spans)
    assert sorted((trace.hex(), span.hex()) for trace, span in receiver.spans) == ids_in(output)
    assert receiver.conflicts == []


def test_a_killed_enricher_loses_nothing(reference, receiver, tmp_path) -> None:
    """It dies with all of the capture before it; the one started in its place enriches every record."""
    _, output = reference
    with Run(tmp_path, "replay", CAPTURE, "--kube-snapshot", SNAPSHOT, "--otlp-endpoint", receiver.grpc_endpoint) as run:
        enricher = run.child("enricher")
        os.kill(enricher, signal.SIGSTOP)
        capture = run.child("capture")
        wait_for(lambda: capture not in run.children())
        os.kill(enricher, signal.SIGKILL)
        assert run.finish() == 0, run.stderr
        assert "enricher was killed by SIGKILL; starting it again" in run.stderr
    assert sorted((trace.hex(), span.hex()) for trace, span in receiver.spans) == ids_in(output)
    assert receiver.conflicts == []


def test_a_killed_capture_repeats_itself(reference, tmp_path) -> None:
    """The second one sends the same batches under the same ids: no record is lost, none is there twice."""
    _, output = reference
    again = tmp_path / "spans.jsonl"
    with Run(tmp_path, "replay", CAPTURE, "--kube-snapshot", SNAPSHOT, "--output", again) as run:
        os.kill(run.child("capture"), signal.SIGKILL)
        assert run.finish() == 0, run.stderr
        assert "capture was killed by SIGKILL" in run.stderr
    assert ids_in(again) == ids_in(output)


def test_refused_spans_fail_the_replay(receiver, tmp_path) -> None:
    """What the backend did not take is counted, named, and makes the exit status 1."""
    receiver.script(PartialSuccess(2, "no room"))
    with Run(tmp_path, "replay", CAPTURE, "--otlp-endpoint", receiver.grpc_endpoint) as run:
        assert run.finish() == 1
        assert figure(run.stdout, "spans refused") == 2
        assert figure(run.stdout, "spans accepted") == figure(run.stdout, "spans") - 2
        assert "no room" in run.stderr


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED])
def test_rejected_batches_are_dead(receiver, tmp_path, code: grpc.StatusCode) -> None:
    """A backend that will never take it, or not with these credentials: every record is dead, and nothing is tried for ever."""
    receiver.default = Refuse(code, "not mine")
    with Run(tmp_path, "replay", CAPTURE, "--otlp-endpoint", receiver.grpc_endpoint) as run:
        assert run.finish() == 1
        assert figure(run.stdout, "dead") == figure(run.stdout, "spans")
        assert figure(run.stdout, "spans accepted") == 0
        assert "not mine" in run.stderr


def test_a_backend_that_is_away_is_waited_for(receiver, tmp_path) -> None:
    """It says so while it waits, and delivers everything once the backend is back."""
    receiver.default = Refuse(grpc.StatusCode.UNAVAILABLE, "closed for lunch")
    with Run(tmp_path, "replay", CAPTURE, "--otlp-endpoint", receiver.grpc_endpoint) as run:
        wait_for(lambda: re.search(r"waiting for the backend: .*closed for lunch", run.stderr))
        receiver.default = Accept()
        assert run.finish() == 0, run.stderr
        assert figure(run.stdout, "spans accepted") == len(receiver.spans)


def test_an_interruption_leaves_no_process(receiver, tmp_path) -> None:
    """Ctrl-C says what is not delivered, ends with status 130, and everything it had started is gone."""
    receiver.default = Stall()
    with Run(tmp_path, "replay", CAPTURE, "--otlp-endpoint", receiver.grpc_endpoint) as run:
        wait_for(lambda: receiver.requests)
        pidfds = [os.pidfd_open(pid) for pid in run.children()]
        assert len(pidfds) >= 3
        run.process.send_signal(signal.SIGINT)
        assert run.finish() == 130, run.stderr
        asyncio.run(ended(pidfds))
        assert "not delivered" in run.stdout
        assert "Traceback" not in run.stderr


def test_a_killed_command_leaves_no_process(receiver, tmp_path) -> None:
    """Even SIGKILL, which it cannot see coming, takes the bus and all services with it."""
    receiver.default = Stall()
    with Run(tmp_path, "replay", CAPTURE, "--otlp-endpoint", receiver.grpc_endpoint) as run:
        wait_for(lambda: receiver.requests)
        pidfds = [os.pidfd_open(pid) for pid in run.children()]
        assert len(pidfds) >= 3
        run.process.kill()
        asyncio.run(ended(pidfds))


def test_a_bus_that_runs_already_is_used(reference, tmp_path) -> None:
    """And may have seen the same replay before: every span is delivered again, as a user who asks twice expects."""
    _, output = reference
    with NatsServer(tmp_path / "nats") as nats:
        for name in ("first", "second"):
            folder = tmp_path / name
            folder.mkdir()
            again = folder / "spans.jsonl"
            arguments = "--kube-snapshot", SNAPSHOT, "--nats-url", nats.url, "--output", again
            with Run(folder, "replay", CAPTURE, *arguments) as run:
                assert run.finish() == 0, run.stderr
            assert ids_in(again) == ids_in(output)


def test_faulty_settings_are_said_as_they_are(tmp_path) -> None:
    """A service that cannot start ends the run at once, with its own words and no traceback."""
    bad = tmp_path / "cluster.json"
    bad.write_text("no json")
    with Run(tmp_path, "replay", CAPTURE, "--kube-snapshot", bad) as run:
        assert run.finish() == 1
        assert "enricher" in run.stderr
        assert "cluster.json" in run.stderr
        assert "Traceback" not in run.stderr


def test_a_pipe_and_compressed_files_give_the_same_spans(reference, tmp_path) -> None:
    """From standard input, a named pipe or gzip: the spans of the file itself; Ctrl-C is for whoever writes the pipe."""
    _, output = reference
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(CAPTURE.read_bytes()))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for name, source in (("stdin", "-"), ("fifo", pipe), ("gzip", packed)):
        folder = tmp_path / name
        folder.mkdir()
        arguments = "replay", source, "--kube-snapshot", SNAPSHOT, "--output", folder / "spans.jsonl"
        with Run(folder, *arguments, stdin=subprocess.PIPE if name == "stdin" else subprocess.DEVNULL) as run:
            if name != "gzip":
                with run.process.stdin if name == "stdin" else pipe.open("wb") as writer:
                    writer.write(CAPTURE.read_bytes()[:1000])
                    writer.flush()
                    wait_for(lambda folder=folder: list(folder.glob("wirespan-*/0/*")))
                    run.process.send_signal(signal.SIGINT)
                    writer.write(CAPTURE.read_bytes()[1000:])
            assert run.finish() == 0, run.stderr
        assert ids_in(folder / "spans.jsonl") == ids_in(output)
        assert not list(folder.glob("wirespan-*"))


def test_a_cut_file_is_said_and_ends_with_a_status_of_its_own(tmp_path) -> None:
    """All that could be read is delivered; file, whatever its name, and packet are named: no script takes it for the whole."""
    cut = tmp_path / os.fsdecode(b"c\xfft.pcapng")
    cut.write_bytes(CAPTURE.read_bytes()[:-500])
    with Run(tmp_path, "replay", cut, CAPTURE, "--output", tmp_path / "spans.jsonl") as run:
        assert run.finish() == 4, run.stderr
        assert re.search(r"c\\xfft\.pcapng: behind packet \d+: the file ends in the middle of a block", run.stderr)
        assert figure(run.stdout, "packets read") == packets_in(cut) + packets_in(CAPTURE)
        assert figure(run.stdout, "spans accepted") == len(ids_in(tmp_path / "spans.jsonl"))


@pytest.mark.skipif(not PCAPS, reason="WIRESPAN_PCAPS names no folder of capture files")
def test_every_capture_can_be_replayed(tmp_path) -> None:
    """Whatever is in them, all packets are read and every record is delivered."""
    files = sorted(path for path in Path(PCAPS).iterdir() if path.suffix in {".pcap", ".pcapng", ".cap"})
    output = tmp_path / "spans.jsonl"
    with Run(tmp_path, "replay", *files, "--output", output) as run:
        assert run.finish() in {0, 4}, run.stderr
        assert "Traceback" not in run.stderr
        assert figure(run.stdout, "packets read") == sum(map(packets_in, files))
        spans = ids_in(output)
        assert figure(run.stdout, "spans accepted") == len(spans)


def test_up_shows_flows_and_stops_when_told(tmp_path) -> None:
    """Without a terminal: one line per record, workloads by name, then the ledger."""
    output = tmp_path / "spans.jsonl"
    with Run(tmp_path, "up", "--demo", "--duration", "600", "--output", output) as run:
        wait_for(lambda: "shop/" in run.stdout and "closed" in run.stdout)
        pidfds = [os.pidfd_open(pid) for pid in run.children()]
        run.process.send_signal(signal.SIGINT)
        assert run.finish() == 0, run.stderr
        asyncio.run(ended(pidfds))
        assert "replaying the bundled capture" in run.stderr
        assert re.search(r"another terminal: .*wirespan tap$", run.stderr, re.MULTILINE)
        assert figure(run.stdout, "spans accepted") == len(ids_in(output)) > 0


def test_tap_prints_what_passes(tmp_path) -> None:
    """From another terminal, with the URL that `up` prints: JSON with workloads at both ends, until Ctrl-C."""
    folder = tmp_path / "tap"
    folder.mkdir()
    with Run(tmp_path, "up", "--demo", "--output", tmp_path / "spans.jsonl") as up:
        url = wait_for(lambda: re.search(r"nats --server (\S+) sub", up.stderr))[1]
        with Run(folder, "tap", "--nats-url", url, "-o", "json") as tap:
            wait_for(lambda: '"k8s.deployment.name":"cart"' in tap.stdout)
            tap.process.send_signal(signal.SIGINT)
            assert tap.finish() == 0, tap.stderr
            assert tap.stderr == ""
            rows = [json.loads(line) for line in tap.stdout.splitlines()]
        up.process.send_signal(signal.SIGTERM)
        assert up.finish() == 0, up.stderr
    assert all(row["transport"] and row["local_address"] for row in rows)


def test_up_ends_after_its_duration(tmp_path) -> None:
    """For continuous integration: a bounded run that ends well."""
    with Run(tmp_path, "up", "--demo", "--duration", "1", "--output", tmp_path / "spans.jsonl") as run:
        assert run.finish() == 0, run.stderr
