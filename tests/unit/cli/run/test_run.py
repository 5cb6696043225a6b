"""What surrounds a run: the files that go in, its folder, its bus, its logs."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
import tempfile
from pathlib import Path

import pytest

from proto.subjects import enriched_subject, partition_of, raw_subject
from services.cli.errors import NotACaptureError
from services.cli.run.capture_files import as_setting, check_capture, content_digest
from services.cli.run.destination import FileDestination
from services.cli.run.pipeline import Pipeline, Plan
from services.cli.run.processes.nats_server import NatsAddress, start_nats_server
from services.cli.run.processes.service_log import backend_trouble, last_errors
from services.cli.run.processes.supervisor import Supervisor
from services.cli.run.run_folder import RunFolder, run_folder
from services.cli.settings import BusSettings, bus_settings, embedded_bus_settings
from services.runtime.nats import bus as runtime_bus
from services.runtime.settings import NatsSettings, StreamSettings, load


@pytest.mark.parametrize("magic", [b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x0a\x0d\x0d\x0a"])
def test_capture_files_pass(tmp_path, magic) -> None:
    """Pcap of either byte order and resolution, and pcapng; whether the rest is sound is for capture to say."""
    path = tmp_path / "file"
    path.write_bytes(magic + bytes(20))
    check_capture(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "not a capture file .empty"), (b"GIF89a", "not a capture file"), (None, "No such file")]
)
def test_other_files_are_refused_by_name(tmp_path, content, message) -> None:
    """One line, with the file's name in it."""
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NotACaptureError, match=f"file: .*{message}"):
        check_capture(path)
    with pytest.raises(NotACaptureError, match="cannot be read"):
        check_capture(tmp_path)


def test_a_digest_is_of_contents_whatever_their_order(tmp_path) -> None:
    """Names, times and the order do not matter; where one file ends and the next begins does."""
    first, second, both, copy = (tmp_path / name for name in ("1", "2", "12", "c"))
    first.write_bytes(b"a")
    second.write_bytes(b"b")
    both.write_bytes(b"ab")
    copy.write_bytes(b"a")
    digests = {content_digest([first, second]), content_digest([second, first]), content_digest([both])}
    assert len(digests) == 2
    assert content_digest([first]) == content_digest([copy])


def test_awkward_names_survive_the_setting(tmp_path) -> None:
    """A comma in a name does not make it two."""
    plain, awkward = tmp_path / "plain.pcap", tmp_path / "a,b.pcap"
    awkward.write_bytes(b"x")
    first, second = as_setting([plain, awkward], tmp_path).split(",")
    assert first == str(plain)
    assert Path(second).read_bytes() == b"x"


def test_a_runs_folder_is_private_and_goes_with_it(tmp_path, monkeypatch) -> None:
    """Only its owner reads it; folders of runs that were killed go too, and those of live runs stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    abandoned, foreign = tmp_path / "wirespan-dead", tmp_path / "wirespan-else"
    abandoned.mkdir()
    (abandoned / "lock").touch()
    foreign.mkdir()
    with run_folder() as first, run_folder() as second:
        assert stat.S_IMODE(first.path.stat().st_mode) == 0o700
        assert first.path.exists()
        assert second.path.exists()
        assert not abandoned.exists()
    assert list(tmp_path.iterdir()) == [foreign]


async def test_the_embedded_bus_is_ours_alone(tmp_path) -> None:
    """Loopback, a token that no argument shows, and the same port and messages after a kill."""
    folder = RunFolder(tmp_path)
    said: list[str] = []
    async with Supervisor(say=said.append) as supervisor:
        address = await start_nats_server(supervisor, folder)
        assert address.url.startswith("nats://127.0.0.1:")
        assert stat.S_IMODE((tmp_path / "nats-server.conf").stat().st_mode) == 0o600
        settings = embedded_bus_settings(address)
        async with runtime_bus.connect(settings.nats, name="test") as bus:
            await bus.ensure_streams(settings.streams)
            await bus.publish("flows.raw.a", b"x", message_id="1")
            os.kill(server_pid(tmp_path), 9)
            await bus.publish("flows.raw.a", b"y", message_id="2")
            assert (await bus.stream_state("FLOWS_RAW")).messages == 2
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.url.rpartition(":")[2]))
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
        assert b"Authorization Violation" in await reader.readline()
        writer.close()
        await writer.wait_closed()
    assert said == ["nats-server was killed by SIGKILL; starting it again"]


def server_pid(folder) -> int:
    """Process id of the server: its ports file is named after it."""
    (path,) = (folder / "ports").glob("*.ports")
    return int(path.stem.rpartition("_")[2])


def test_services_read_back_the_bus_they_are_given(monkeypatch) -> None:
    """The variables made from settings give the same settings."""
    for name in [name for name in os.environ if name.startswith("WIRESPAN_")]:
        monkeypatch.delenv(name)
    settings = bus_settings("nats://example:4222")
    assert settings.nats.url == "nats://example:4222"
    environ = settings.environ()
    assert environ == {"WIRESPAN_NATS_URL": "nats://example:4222"}
    assert load(type(settings), prefix="WIRESPAN_CLI_", environ=environ) == settings


def test_a_log_tells_what_the_exporter_waits_for(tmp_path) -> None:
    """The last refusal, until the backend answers again; lines cut off or not ours do no harm."""
    log = tmp_path / "exporter.log"
    assert backend_trouble(log) is None
    lines = ["plain text", json.dumps({"event": "sink.throttled", "reason": "unavailable", "detail": "UNAVAILABLE: refused"})]
    log.write_text("\n".join(lines) + "\n")
    assert backend_trouble(log) == "UNAVAILABLE: refused"
    log.write_text("\n".join([*lines, json.dumps({"event": "sink.recovered"}), '{"event": "sink.thr']))
    assert backend_trouble(log) is None


def test_the_last_errors_of_a_log_are_one_line_each(tmp_path) -> None:
    """Errors rather than whatever came last; of a traceback the line that says what it was."""
    log = tmp_path / "capture.log"
    entries = [
        {
            "event": "service.failed",
            "level": "error",
            "exception": "Traceback ...\n  File ...\nValueError: no",
            "timestamp": "t",
        },
        {"event": "service.stopped", "level": "info"},
    ]
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert last_errors(log) == ["service.failed exception=ValueError: no"]
    log.write_text("cannot start with these settings:\n  X: wrong\n")
    assert last_errors(log) == ["cannot start with these settings:", "X: wrong"]


def test_a_locked_folder_is_never_taken_for_abandoned(tmp_path, monkeypatch) -> None:
    """A run that lives holds its lock."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "wirespan-live"
    path.mkdir()
    with (path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with run_folder():
            assert path.exists()


async def test_a_batch_in_any_partition_of_a_bus_is_under_way(nats_server, tmp_path) -> None:
    """With partitions that this run's settings know, and with those of other services of the bus alone; it is heard as well."""
    node = next(name for name in map("node-{}".format, range(1000)) if partition_of(name, 4) == 3)
    settings = BusSettings(nats=NatsSettings(url=nats_server.url))
    plan = Plan(destination=FileDestination(tmp_path / "spans.jsonl"), node=node, bus=settings)
    async with runtime_bus.connect(settings.nats, name="test") as bus, Supervisor(say=lambda _: None) as supervisor:
        await bus.ensure_streams(StreamSettings(partitions=4))
        await bus.publish(raw_subject(node, 4), b"batch", message_id="raw")
        for streams in (StreamSettings(), StreamSettings(partitions=4)):
            run = Pipeline(
                plan, folder=RunFolder(tmp_path), supervisor=supervisor, bus=bus, nats=NatsAddress(settings.nats.url)
            )
            await run.reach(streams, lambda _: None)
            passing = run.watch()
            await passing.start()
            under_way = (await run.status()).batches_under_way
            await bus.publish(enriched_subject(node, 4), b"enriched", message_id=f"enriched {under_way}")
            assert (await anext(passing)).data == b"enriched"
            assert (await run.status()).batches_under_way == under_way + 1
    assert under_way == 2
