"""The commands as they are typed, as far as they start nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from proto.flow_batch import encode
from tests.support.pipeline.batches import fixed_batch

ROOT = Path(__file__).parents[3]


def wirespan(*arguments: str, **options) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a shell would."""
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments], cwd=ROOT, capture_output=True, check=False, **options
    )


def test_decode_prints_one_object_per_record() -> None:
    """What `nats sub --translate` shows."""
    result = wirespan("decode", input=encode(fixed_batch()))
    assert (result.returncode, result.stderr) == (0, b"")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["reason"] for row in rows] == ["end_of_flow", "idle_timeout", "active_timeout"]


def test_decode_says_what_is_wrong_in_one_line() -> None:
    """Bytes that are no FlowBatch are an error and not a traceback."""
    result = wirespan("decode", input=b"\x00\x01")
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.count(b"\n") == 1
    assert result.stderr.startswith(b"wirespan: not a FlowBatch: ")


def test_decode_is_quiet_when_nobody_reads_on() -> None:
    """`wirespan decode | head -1` leaves no traceback."""
    batch = fixed_batch()
    many = batch.take([0] * 5000)
    with subprocess.Popen(
        [sys.executable, "-m", "services.cli", "decode"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        process.stdin.write(encode(many))
        process.stdin.close()
        assert process.stderr.read() == b""


def test_help_loads_no_more_than_it_needs() -> None:
    """The list of commands comes at once: none of the libraries that the commands use is imported for it."""
    source = """
import sys
from services.cli.__main__ import main
try:
    main(["--help"])
except SystemExit as end:
    assert not end.code
heavy = {"numpy", "rich", "grpc", "msgspec", "nats", "asyncio"} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    for command in (b"replay", b"up", b"tap", b"decode"):
        assert command in result.stdout


def test_a_file_that_is_not_there_is_told_of_at_once() -> None:
    """Nothing that shows or sends records is loaded before the files have been looked at."""
    source = """
import sys
from services.cli.__main__ import main
for command in ("tap", "replay"):
    try:
        main([command, "no-such-file.pcap"])
    except SystemExit as end:
        assert end.code == 3
heavy = {"numpy", "rich", "grpc", "msgspec", "nats", "asyncio"} & set(sys.modules)
assert not heavy, heavy
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WIRESPAN_")}
    result = subprocess.run([sys.executable, "-c", source], cwd=ROOT, env=environ, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count(b"no-such-file.pcap: cannot be read") == 2


def test_every_command_has_help() -> None:
    """And names its options."""
    for command in ("replay", "up", "tap", "decode"):
        result = wirespan(command, "--help")
        assert result.returncode == 0, result.stderr
        assert b"--help" in result.stdout


def test_nothing_is_started_for_a_file_that_is_no_capture(tmp_path) -> None:
    """Exit status 3 and one line with the file's name; no output file is made."""
    good = ROOT / "tests" / "data" / "cluster.pcapng"
    result = wirespan("replay", str(good), str(ROOT / "pyproject.toml"), "--output", str(tmp_path / "spans.jsonl"))
    assert (result.returncode, result.stdout) == (3, b"")
    assert result.stderr.count(b"\n") == 1
    assert b"pyproject.toml" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_input_is_never_overwritten(tmp_path) -> None:
    """A capture named as the output too stays as it is."""
    path = tmp_path / "c.pcap"
    path.write_bytes(b"\xd4\xc3\xb2\xa1" + bytes(20))
    result = wirespan("replay", str(path), "--output", str(path))
    assert result.returncode == 2
    assert path.stat().st_size == 24


def test_up_replays_one_thing() -> None:
    """The demo is the bundled capture; asked for with another one, neither is taken."""
    result = wirespan("up", "--demo", "--capture", "c.pcap")
    assert result.returncode == 2
    assert result.stderr.count(b"\n") == 1


def test_up_says_that_it_needs_a_capture_where_none_is_bundled(tmp_path) -> None:
    """A file that is no capture ends it in one line too."""
    result = wirespan("up", "--capture", str(tmp_path / "none.pcap"), "--output", str(tmp_path / "spans.jsonl"))
    assert result.returncode == 3
    assert result.stderr.count(b"\n") == 1


def test_a_variable_that_nothing_reads_is_refused() -> None:
    """In a line that says what was probably meant; what is not like a setting is somebody else's."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WIRESPAN_")}
    typos = {"WIRESPAN_NAST_URL": "nats://a", "WIRESPAN_NATS_TOKNE": "secret"}
    refused = wirespan("plan", "--nodes", "3", env=environ | typos)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert refused.stderr.decode() == (
        "wirespan: WIRESPAN_NAST_URL: there is no such setting (is it WIRESPAN_NATS_URL?); "
        "WIRESPAN_NATS_TOKNE: there is no such setting (is it WIRESPAN_NATS_TOKEN?)\n"
    )
    known = {"WIRESPAN_PCAPS": "a", "WIRESPAN_CAPTURE_LOOPBACK": "1", "WIRESPAN_CONFIG": "", "WIRESPAN_TAG": "1"}
    assert wirespan("decode", input=encode(fixed_batch()), env=environ | known).returncode == 0


def test_an_error_commands_no_terminal(tmp_path: Path) -> None:
    """Whatever a name on the command line or in the environment holds."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WIRESPAN_")}
    result = wirespan("plan", "--nodes", "3", env=environ | {"WIRESPAN_NATS_\x1b[2J": "1"})
    assert result.returncode == 2
    assert result.stderr.decode().rstrip("\n").isprintable()
