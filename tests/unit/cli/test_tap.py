"""`wirespan tap` on files, and how it prints."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner, Result

from proto.flow_batch import Entity
from proto.rows import rows
from services.cli.errors import CliError
from services.cli.tap.command import latest, tap
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.unit.cli.flow_records import record_batch

WEB = Entity("k8s.pod", {"k8s.pod.name": "web-0", "k8s.deployment.name": "web", "k8s.namespace.name": "shop"})
HOSTILE = Entity("k8s.pod", {"k8s.pod.name": "\x1b[2Jweb", "k8s.namespace.name": "shop"})


def shown(*arguments: str, lines: list[str], exit_status: int = 0) -> Result:
    """What the command does with a file of `lines` on standard input."""
    environment = {"TZ": "UTC", "NO_COLOR": "1", "COLUMNS": "80"}
    result = CliRunner(env={**os.environ, **environment}).invoke(
        tap, ["--input-file", "-", *arguments], input="\n".join(lines), catch_exceptions=exit_status != 0
    )
    assert result.exit_code == exit_status, result.output
    return result


def json_lines(*batches) -> list[str]:
    """The records as `wirespan decode` prints them."""
    return [json.dumps(row) for batch in batches for row in rows(batch)]


def test_the_last_records_are_the_latest_of_all_batches() -> None:
    """Wherever one batch ends and the next begins."""
    batches = [enriched_batch(count, sequence=number) for number, count in enumerate((3, 0, 2, 1))]
    numbers = [number for batch in batches for number in batch.column("flow_id").tolist()]
    for last in (1, 2, 3, 5, 6, 9, None):
        found = [number for batch in latest(iter(batches), last) for number in batch.column("flow_id").tolist()]
        assert found == numbers[-last if last else 0 :]


def test_json_comes_out_as_it_went_in() -> None:
    """A filter between two pipes changes nothing of what it lets pass."""
    lines = json_lines(enriched_batch(3))
    assert [json.loads(line) for line in shown("-o", "json", lines=lines).stdout.splitlines()] == [*map(json.loads, lines)]


def test_a_table_has_a_head_and_a_row_for_each_record() -> None:
    """Names are never cut."""
    long = "x" * 60
    entities = [WEB, Entity("k8s.pod", {"k8s.pod.name": long})]
    batch = record_batch(entities=entities, local_entity=0, remote_entity=1)
    head, row = shown("-o", "table", lines=json_lines(batch)).stdout.splitlines()
    assert head.split() == ["TIME", "SOURCE", "DESTINATION", "PROTOCOL", "OUTCOME", "SENT", "RECEIVED", *head.split()[7:]]
    assert "shop/web:48112" in row
    assert f"{long}:6379" in row


def test_a_dict_has_what_is_known_and_nothing_else() -> None:
    """Zero, unknown and nobody are left out."""
    batch = record_batch(entities=[WEB], local_entity=0)
    fields = dict(line.strip().split(": ", 1) for line in shown("-o", "dict", lines=json_lines(batch)).stdout.splitlines()[:-1])
    assert fields["local_entity.k8s.deployment.name"] == "web"
    assert fields["rx_bytes"] == "3565158"
    assert not {"tx_retransmits", "remote_entity", "icmp_type", "response_time_histogram"} & set(fields)


@pytest.mark.parametrize("form", ["compact", "table", "dict"])
def test_names_cannot_command_the_terminal(form: str) -> None:
    """Control characters are shown, not sent."""
    batch = record_batch(entities=[HOSTILE], local_entity=0)
    out = shown("-o", form, lines=json_lines(batch)).stdout
    assert "\x1b" not in out
    assert "web" in out


def test_numeric_shows_addresses() -> None:
    """Although there are names."""
    out = shown("--numeric", lines=json_lines(record_batch(entities=[WEB], local_entity=0))).stdout
    assert "10.0.0.5:48112 -> [2001:db8::1]:6379" in out


def test_lines_that_are_no_records_are_counted_and_left_out() -> None:
    """The others are shown; a file of nothing else is an error."""
    good = json_lines(record_batch())
    result = shown(lines=["{}", *good, "no json", "", '{"resourceSpans": 7}'])
    assert len(result.stdout.splitlines()) == 1
    assert "3 lines left out: neither records nor spans (line 1:" in result.stderr
    error = shown(lines=["no json"], exit_status=1).exception
    assert isinstance(error, CliError)


@pytest.mark.parametrize(
    "arguments", [("--raw",), ("--follow",), ("--since", "yesterday"), ("--last", "0"), ("-f", "--until", "1m")]
)
def test_options_that_contradict_each_other_are_refused(arguments: tuple[str, ...]) -> None:
    """With status 2 and before anything is read."""
    assert "Error: " in shown(*arguments, lines=[], exit_status=2).stderr


def test_since_is_so_long_ago_or_a_time() -> None:
    """A record of 2023 is not of the last hour, but of after 2020."""
    lines = json_lines(record_batch())
    assert shown("--since", "1h", lines=lines).stdout == ""
    assert shown("--since", "2020-01-01T00:00:00Z", lines=lines).stdout != ""
    assert shown("--until", "2020-01-01", lines=lines).stdout == ""


def test_spans_that_others_wrote_are_passed_over() -> None:
    """They are OTLP/JSON, and no fault of the file."""
    foreign = {"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "GET /", "attributes": []}]}]}]}
    result = shown(lines=[json.dumps(foreign)])
    assert (result.stdout, result.stderr) == ("", "")
