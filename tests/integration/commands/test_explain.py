"""`wirespan explain`: what it says of a capture, of the spans that are made of it, and of what is not there."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from click.testing import CliRunner

from proto.columns import Outcome
from services.cli.errors import NotACaptureError
from services.cli.explain.command import explain_command, explained
from services.cli.explain.queries import on_bus
from services.cli.explain.words import files_and_question
from services.cli.view.kept import Kept
from services.cli.view.running import keep_files
from tests.unit.cli.flow_records import record_batch

ROOT = Path(__file__).parents[3]
CAPTURE, CLUSTER = (ROOT / "tests" / "data" / name for name in ("cluster.pcapng", "cluster.json"))


def wirespan(*arguments: str | Path, stdin: int | IO[bytes] = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "services.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120, stdin=stdin)


def told(*arguments: str | Path) -> list[dict]:
    """What it says, as programs read it."""
    done = wirespan("explain", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def spans(tmp_path_factory) -> Path:
    """The spans of the bundled capture."""
    path = tmp_path_factory.mktemp("spans") / "spans.jsonl"
    done = wirespan("replay", CAPTURE, "--kube-snapshot", CLUSTER, "--output", path)
    assert done.returncode == 0, done.stderr
    return path


def test_a_pair_is_explained_in_words(spans) -> None:
    """Its head, its story, the verdict, the numbers, where to go on, and queries; the same of spans as of the capture."""
    of_capture = wirespan("explain", CAPTURE, "--kube-snapshot", CLUSTER, "cart", "to", "redis:6379")
    assert of_capture.returncode == 0, of_capture.stderr
    lines = of_capture.stdout.splitlines()
    assert lines[0].startswith("shop/cart:")
    assert " -> shop/redis:6379  tcp" in lines[0]
    for begin in ("verdict  ", "because  ", "next     ", "more     TraceQL: { span.flow.verdict = ", "more     tap: "):
        assert any(line.startswith(begin) for line in lines), begin
    of_spans = wirespan("explain", spans, "shop/cart to redis:6379")
    assert of_spans.stdout.splitlines()[1:-1] == lines[1:-1]


@pytest.mark.parametrize("places", [("capture",), ("spans",), ("spans", "capture"), ("stdin",)])
def test_what_it_says_to_type_asks_where_it_looked(spans, places) -> None:
    """A file, several, standard input: as printed it works, and finds more of the same."""
    given = {"capture": CAPTURE, "spans": spans, "stdin": "-"}
    named = () if places == ("spans",) else ("--kube-snapshot", CLUSTER)
    files = [given[place] for place in places]
    with CAPTURE.open("rb") as capture:
        done = wirespan("explain", *files, *named, "--json", stdin=capture)
    assert done.returncode == 0, done.stderr
    (found,) = map(json.loads, done.stdout.splitlines())
    with CAPTURE.open("rb") as capture:
        command = ["sh", "-c", found["queries"]["tap"]]
        typed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, stdin=capture)
    assert (typed.returncode, typed.stderr) == (0, "")
    assert found["destination"].split(":")[0] in typed.stdout
    assert found["verdict"].replace("_", " ") in typed.stdout


@pytest.mark.parametrize(
    ("asked", "typed"),
    [
        ((None, None, "wirespan"), "tap --since 1h --verdict"),
        (("nats://there:4222", None, "wirespan"), "tap --nats-url nats://there:4222 --since 1h --verdict"),
        (("nats://me:word@there:4222", None, "wirespan"), "tap --since 1h --verdict"),
        ((None, "prod", "spans"), "tap --kube-context prod --kube-namespace spans --since 1h --verdict"),
    ],
)
def test_what_it_says_to_type_asks_the_same_bus(asked, typed) -> None:
    """For as long a time; a password is not repeated."""
    refused = record_batch(outcome=Outcome.REFUSED)
    ((found,), _) = explained([refused], "", on_bus(*asked, "1h"))
    assert f" {typed} refused " in found.queries["tap"]


def test_the_worst_is_explained_where_nothing_is_asked_for(spans) -> None:
    """Something that had trouble; of a capture as of its spans."""
    (of_capture,) = told(CAPTURE, "--kube-snapshot", CLUSTER)
    (of_spans,) = told(spans)
    assert of_capture["verdict"] not in {"ok", "unknown"}
    assert of_spans["sentence"] == of_capture["sentence"]
    assert of_spans["because"] == of_capture["because"]


def test_a_trace_is_all_its_requests_and_a_flow_is_found_by_its_id(spans) -> None:
    """Each request of an application's trace, in order; a connection by the id of its own trace, and by the flow's."""
    exchanges = [json.loads(line) for line in wirespan("tap", "--input-file", spans, "-o", "json").stdout.splitlines()]
    traced = next(row for row in exchanges if row.get("trace_id"))
    requests = told(spans, traced["trace_id"])
    assert {request["trace_id"] for request in requests} == {traced["trace_id"]}
    assert [request["began_unix_ns"] for request in requests] == sorted(request["began_unix_ns"] for request in requests)
    assert all(any("request" in step["what"] for step in request["story"]) for request in requests)
    begun = {row["start_unix_ns"] for row in exchanges if row.get("trace_id") == traced["trace_id"]}
    assert {request["began_unix_ns"] for request in requests} <= begun, "when the request began, not its connection"
    flow = next(row for row in exchanges if not row.get("trace_id") and row["transport"] == "tcp")
    (by_id,) = told(spans, str(flow["flow_id"]))
    assert by_id["flow_id"] == flow["flow_id"]
    assert told(spans, hex(flow["flow_id"])) == [by_id]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("nobody to nowhere:1", "no connection of nobody to nowhere:1 was seen"),
        ("a to b to c", "a pair is `FROM to DESTINATION[:PORT]`"),
    ],
)
def test_what_is_not_there_is_one_line(spans, asked, said) -> None:
    """And an exit status that is not 0."""
    done = wirespan("explain", spans, asked)
    assert done.returncode in {1, 2}
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_that_is_neither_is_said(tmp_path) -> None:
    """Neither a capture nor spans."""
    (tmp_path / "note.txt").write_text("hello\n")
    done = wirespan("explain", tmp_path / "note.txt")
    assert done.returncode == 1
    assert "neither a capture nor records nor spans" in done.stderr


def test_lines_that_are_neither_are_counted(spans, tmp_path) -> None:
    """What is among others is passed over with a word, wherever spans are read."""
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(spans.read_text() + "hello\n{}\n")
    count = len(mixed.read_text().splitlines())
    said = f"2 lines left out: neither records nor spans (line {count - 1}: "
    done = wirespan("explain", mixed)
    assert done.returncode == 0
    assert done.stderr.startswith(f"{mixed}: {said}")
    assert "verdict  " in done.stdout
    assert wirespan("tap", "--input-file", mixed).stderr.startswith(said)
    kept = Kept()
    asyncio.run(keep_files(kept, [mixed], None))
    (note,) = kept.notes
    assert note == done.stderr.rstrip("\n")


def test_a_page_of_nothing_is_none(tmp_path) -> None:
    """Of a file that is neither the command says so where it was called, and ends."""
    note = tmp_path / "note.txt"
    note.write_text("hello\n")
    done = wirespan("view", note, "--port", "0")
    assert done.returncode == 1
    *_, said = done.stderr.splitlines()
    assert said.startswith(f"wirespan: {note}: neither a capture nor records nor spans (line 1: ")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen(["sh", "-c", 'cat "$1" >"$2"', "sh", note, pipe])
    done = wirespan("view", pipe, "--port", "0")
    assert (writer.wait(60), done.returncode) == (0, 1)
    assert "neither a capture nor records nor spans (line 1: " in done.stderr, "what can be read once only is read once"


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> Path:
    """The beginning of the bundled capture, up to the middle of a block."""
    path = tmp_path_factory.mktemp("cut") / "cut.pcapng"
    path.write_bytes(CAPTURE.read_bytes()[:100_000])
    return path


def test_a_capture_that_could_not_be_read_whole_is_said(cut) -> None:
    """As `tap` does, behind what was read of it; and where nothing of what is asked for was in that."""
    fault = f"{cut}: behind packet 493: the file ends in the middle of a block\n"
    done = wirespan("explain", cut)
    assert (done.returncode, done.stderr) == (4, fault)
    assert "verdict  " in done.stdout
    done = wirespan("explain", cut, "nobody to nowhere:1")
    assert (done.returncode, done.stderr) == (1, f"{fault}wirespan: no connection of nobody to nowhere:1 was seen\n")


async def test_the_page_says_of_a_capture_that_it_could_not_be_read_whole(cut, tmp_path) -> None:
    """Beside what was read of it, and beside what is wrong with another file."""
    fault = f"{cut}: behind packet 493: the file ends in the middle of a block"
    kept = Kept()
    await keep_files(kept, [cut], None)
    assert (kept.complete, kept.notes) == (True, [fault])
    assert kept.records
    (tmp_path / "note.txt").write_text("hello\n")
    kept = Kept()
    await keep_files(kept, [cut, tmp_path / "note.txt"], None)
    assert kept.notes[0] == fault
    assert "neither a capture nor records nor spans" in kept.notes[1]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("d", "Is a directory"),
        ("d/", "Is a directory"),
        ("nope.pcap", "No such file or directory"),
        ("nope.PCAPNG.gz", "No such file or directory"),
        ("nope.jsonl.zst", "No such file or directory"),
        ("./nope", "No such file or directory"),
        ("/nope/nope", "No such file or directory"),
        ("a/b/nope", "No such file or directory"),
    ],
)
def test_what_is_meant_as_a_file_and_is_none_is_said_as_tap_says_it(tmp_path, monkeypatch, word, reason) -> None:
    """Before any bus is asked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    with pytest.raises(NotACaptureError) as refused:
        files_and_question([word])
    assert str(refused.value) == f"{Path(word)}: cannot be read: {reason}"
    assert refused.value.exit_status == 3


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["shop/frontend", "to", "redis:6379"],
        ["shop/frontend to shop/redis:6379"],
        ["shop/frontend -> shop/redis:6379"],
        ["d", "to", "redis:6379"],
        ["shop/d"],
        ["10.42.0.8:6379"],
        ["[fd00::8]:6379"],
        ["api.example.com"],
        ["4bf92f3577b34da6a3ce929d0e0e4736"],
        ["0x1f"],
    ],
)
def test_what_can_be_asked_for_is_no_file(tmp_path, monkeypatch, words) -> None:
    """Whatever stands in the folder under the name of one end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    assert files_and_question(words) == ([], " ".join(words))


def test_a_folder_beside_a_file_is_the_name_of_a_service(tmp_path, monkeypatch) -> None:
    """There is a file to look at, and it is asked for at once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    assert files_and_question([str(CAPTURE), "d"]) == ([CAPTURE], "d")


def test_standard_input_is_explained_as_the_file_is(spans) -> None:
    """A capture, and spans."""
    for path in (CAPTURE, spans):
        command = [sys.executable, "-m", "services.cli", "explain"]
        with path.open("rb") as source:
            done = subprocess.run(
                [*command, "-"], stdin=source, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
            )
            of_file = wirespan("explain", path).stdout.replace(f" {path} ", " - ")
        assert (done.returncode, done.stdout) == (0, of_file), done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([str(CAPTURE), "4bf92f3577b34da6a3ce929d0e0e4736"], "--backend and FILE are two places to look at: give one of them"),
        (["cart"], "--backend is asked for a trace by its id, 32 hexadecimal digits"),
    ],
)
def test_a_backend_is_asked_for_a_trace_and_nothing_besides(given, said) -> None:
    """What is wrong is named: the file, or what is no id."""
    refused = CliRunner().invoke(explain_command, ["--backend", "http://127.0.0.1:1", *given])
    assert refused.exit_code == 2
    assert said in refused.output
