"""Where spans go, from options and environment."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from services.cli.errors import UsageError
from services.cli.run.destination import DEFAULT_OUTPUT, EndpointDestination, FileDestination, choose_destination

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
TRACES_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
OUTPUT_FILE = "WIRESPAN_EXPORTER_OUTPUT_FILE"


def choose(environ=None, **options):
    """The destination for these options, the others not given."""
    return choose_destination(**{"endpoint": None, "protocol": None, "output": None, **options}, environ=environ or {})


def test_without_a_word_spans_go_to_the_default_file() -> None:
    """A first try needs no backend."""
    assert choose(existing="overwrite") == FileDestination(DEFAULT_OUTPUT, "overwrite")


def test_the_environment_is_used_where_no_option_is_given() -> None:
    """What an SDK would use is used as it stands, and an option overrules it."""
    environ = {TRACES_ENDPOINT: "tempo:4317", ENDPOINT: "http://other:4317"}
    destination = choose(environ)
    assert str(destination) == "tempo:4317"
    assert destination.environ(environ) == environ
    assert choose(environ, output=Path("x")) == FileDestination(Path("x"))
    assert choose(environ, endpoint="http://mine:4317") == EndpointDestination("http://mine:4317")


@pytest.mark.parametrize(
    ("endpoint", "protocol", "expected"),
    [
        ("http://h:4317", None, {ENDPOINT: "http://h:4317"}),
        ("http://h:4318", None, {ENDPOINT: "http://h:4318", TRACES_PROTOCOL: "http/protobuf"}),
        ("https://h:4318", "grpc", {ENDPOINT: "https://h:4318", TRACES_PROTOCOL: "grpc"}),
        ("http://h/v1/traces", None, {TRACES_ENDPOINT: "http://h/v1/traces", TRACES_PROTOCOL: "http/protobuf"}),
    ],
)
def test_an_endpoint_overrules_the_environment(endpoint, protocol, expected) -> None:
    """The variable in which the exporter finds it is the right one, and nothing else is left that would win."""
    environ = {
        TRACES_ENDPOINT: "http://old:1",
        ENDPOINT: "http://old:2",
        OUTPUT_FILE: "old",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=b",
    }
    assert EndpointDestination(endpoint, protocol).environ(environ) == {**expected, "OTEL_EXPORTER_OTLP_HEADERS": "a=b"}


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint": "http://h:4317", "output": Path("x")},
        {"endpoint": "h:4317"},
        {"endpoint": "http://h:port"},
        {"protocol": "grpc"},
        {"protocol": "grpc", "output": Path("x")},
    ],
)
def test_what_makes_no_sense_is_refused(options) -> None:
    """Before anything is started."""
    with pytest.raises(UsageError):
        choose(**options)


def test_credentials_in_an_endpoint_are_not_shown() -> None:
    """Screens are shared."""
    assert str(EndpointDestination("https://user:secret@h:4317")) == "https://***@h:4317"


def test_no_run_empties_anothers_spans_unasked(tmp_path) -> None:
    """A file that holds some is refused, added to or replaced, as is said; an empty one is anybody's."""
    path = tmp_path / "spans.jsonl"
    path.write_text("old\n")
    with pytest.raises(UsageError, match="--append adds to them, --overwrite replaces them"):
        FileDestination(path).prepare()
    FileDestination(path, "append").prepare()
    assert path.read_text() == "old\n"
    FileDestination(path, "overwrite").prepare()
    assert path.read_bytes() == b""
    FileDestination(path).prepare()
    assert FileDestination(path).environ({})[OUTPUT_FILE] == str(path)


def test_each_run_without_a_name_has_a_file_of_its_own(tmp_path, monkeypatch) -> None:
    """With the next number, unless it is to add to the last one, or to replace it."""
    monkeypatch.chdir(tmp_path)
    DEFAULT_OUTPUT.write_text("first\n")
    assert str(choose()) == "wirespan-spans-2.jsonl"
    Path("wirespan-spans-2.jsonl").write_text("second\n")
    Path("wirespan-spans-3.jsonl").touch()
    assert str(choose()) == "wirespan-spans-3.jsonl"
    assert choose(existing="append") == FileDestination(DEFAULT_OUTPUT, "append")


def test_another_runs_output_is_left_alone(tmp_path) -> None:
    """A file that an exporter holds is refused, not emptied."""
    path = tmp_path / "spans.jsonl"
    with path.open("w") as file:
        file.write("theirs\n")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another exporter"):
            FileDestination(path).prepare()
    assert path.read_text() == "theirs\n"


def test_an_output_that_cannot_be_written_is_refused(tmp_path) -> None:
    """One line that names it."""
    with pytest.raises(UsageError, match=r"no/spans\.jsonl: cannot be written"):
        FileDestination(tmp_path / "no" / "spans.jsonl").prepare()
