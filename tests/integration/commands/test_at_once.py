"""A capture file shown at once: by the real engine and the real enricher, with no bus anywhere."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proto.flow_batch import Entity
from proto.rows import rows
from tests.support.packets.pcap import SYN, Conversation, write
from tests.unit.cli.flow_records import record_batch

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"
COMMAND = (sys.executable, "-m", "services.cli")
NOWHERE = "nats://127.0.0.1:1"
STYLES = re.compile(r"\x1b\[[0-9;]*m")


def environ(**more: str) -> dict[str, str]:
    """An environment without settings of ours, but for a bus that nobody can reach."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "WIRESPAN_"))}
    return kept | {"TZ": "UTC", "WIRESPAN_NATS_URL": NOWHERE} | more


def ran(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """The command, once it has ended."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=ROOT, env=environ(), input=stdin, capture_output=True, check=False, timeout=100
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def on_terminal(*arguments: str | Path, columns: int = 120) -> str:
    """What the command prints on a terminal of its own."""
    ours, theirs = pty.openpty()
    variables = {name: value for name, value in environ(COLUMNS=str(columns), TERM="xterm").items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], cwd=ROOT, env=variables, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    printed = b""
    try:
        while piece := os.read(ours, 65536):
            printed += piece
    except OSError:
        pass  # the last one that had the terminal is gone
    finally:
        os.close(ours)
        assert process.wait(60) == 0
    return printed.decode()


def test_a_capture_is_shown_as_it_is_told(tmp_path: Path) -> None:
    """Addresses without a snapshot, filters as on the bus, JSON with every column."""
    talk = Conversation().tcp(0, "client", SYN, seq=1).tcp(1, "client", SYN, seq=1).tcp(3, "client", SYN, seq=1)
    file = write(tmp_path / "syn.pcap", talk.frames)
    done = ran("tap", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"10\.0\.0\.1:40000 -> 10\.0\.0\.2:80 +tcp +timeout +120 B out, 0 B in  3 SYNs", done.stdout)
    assert ran("tap", file, "--not", "--failed").stdout == ""
    (row,) = map(json.loads, ran("tap", file, "-o", "json").stdout.splitlines())
    assert (row["outcome"], row["syn_repeats"], row["rx_bytes"]) == ("timeout", 2, 0)
    assert ran("tap", "-", stdin=file.read_bytes()).stdout == done.stdout


def test_a_table_of_a_capture_has_all_of_it() -> None:
    """Names from the snapshot, troubles first, nothing cut where it is no screen; and the flows that capture tells of."""
    done = ran("replay", "--table", DATA / "cluster.pcapng", "--kube-snapshot", DATA / "cluster.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "…" not in done.stdout
    first = next(line for line in done.stdout.splitlines() if "shop/" in line)
    assert "2 reset" in first
    told = [json.loads(line) for line in ran("tap", DATA / "cluster.pcapng", "-o", "json").stdout.splitlines()]
    flows = {row["flow_id"] for row in told}
    assert f"in all: {len(flows)} flows, " in done.stdout
    told = ran("replay", "--table", DATA / "cluster.pcapng", "--failed").stdout
    assert "in all: 6 flows, " in told
    assert ", 6 failed" in told, "as many as its rows"


def test_on_a_terminal_the_table_fits() -> None:
    """Its width, whatever its height: who scrolls sees all of it."""
    shown = STYLES.sub("", on_terminal("replay", "--table", DATA / "cluster.pcapng", columns=100))
    assert max(map(len, shown.splitlines())) <= 100
    assert "in all: 32 flows" in shown


def test_a_file_that_cannot_be_read_whole_is_told_with_its_status(tmp_path: Path) -> None:
    """Cut: what there is, and 4, whatever its name. No capture: 3. No snapshot: 2."""
    talk = Conversation().udp(0, "client", b"x").udp(1, "client", b"y")
    file = write(tmp_path / os.fsdecode(b"c\xfft.pcap"), talk.frames)
    file.write_bytes(file.read_bytes()[:-3])
    cut = ran("tap", file)
    assert cut.returncode == 4
    assert "10.0.0.1" in cut.stdout
    assert "c\\xfft.pcap: packet 2: the file ends in the middle of it" in cut.stderr
    assert ran("replay", "--table", file).returncode == 4
    assert ran("tap", __file__).returncode == 3
    bad = ran("tap", DATA / "cluster.pcapng", "--kube-snapshot", __file__)
    assert bad.returncode == 2
    assert "not what `kubectl get -o json` prints" in bad.stderr


IN_BOTH_WAYS = """
import os, sys, threading
from pathlib import Path
from proto.flow_batch import encode
from services.cli.run.at_once import CaptureRecords

def told(snapshot):
    return [encode(batch) for batch in CaptureRecords([Path(sys.argv[1])], snapshot).batches()]

def broken_off(snapshot):
    batches = CaptureRecords([Path(sys.argv[1])], snapshot).batches()
    next(batches)
    batches.close()

snapshots = [None, Path(sys.argv[2])]
for snapshot in snapshots:
    broken_off(snapshot)
alone = [told(snapshot) for snapshot in snapshots]
over = threading.Event()
threading.Thread(target=over.wait, daemon=True).start()
assert [told(snapshot) for snapshot in snapshots] == alone
for snapshot in snapshots:
    broken_off(snapshot)
over.set()
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print(*map(len, alone))
"""


def test_records_are_the_same_however_they_are_read(tmp_path: Path) -> None:
    """By processes that are forked, or started where there are threads; who wants no more of them waits for none."""
    talks = [Conversation(client_port=1024 + number).udp(number / 1000, "client", b"x") for number in range(9000)]
    file = write(tmp_path / "many.pcap", [frame for talk in talks for frame in talk.frames])
    command = (sys.executable, "-c", IN_BOTH_WAYS, str(file), str(DATA / "cluster.json"))
    done = subprocess.run(command, cwd=ROOT, env=environ(), capture_output=True, check=False, timeout=100, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(int(batches) > 1 for batches in done.stdout.split())
    assert done.stdout


@pytest.mark.parametrize("form", ["compact", "table", "json", "dict"])
def test_nothing_commands_a_real_terminal(tmp_path: Path, form: str) -> None:
    """Colours are ours; whatever else a name asks of the terminal is shown."""
    hostile = Entity("k8s.pod", {"k8s.pod.name": "a\x1b]0;owned\x07\x9b2Jb", "k8s.namespace.name": "shop"})
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps(row) + "\n" for row in rows(record_batch(entities=[hostile], local_entity=0))))
    shown = on_terminal("tap", "--input-file", records, "-o", form, columns=200)
    assert "owned" in shown
    assert STYLES.sub("", shown).replace("\r\n", "").isprintable()
