"""`wirespan tap` on files, and how it prints."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner, Result

from proto.flow_batch import Entity, encode
from proto.rows import rows
from proto.verdicts.names import Verdict, VerdictMeasure
from services.cli.decode import decode_command
from services.cli.errors import CliError
from services.cli.tap import held
from services.cli.tap.command import tap
from services.cli.tap.held import Held, by_time, latest
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.unit.cli.flow_records import START, record_batch

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


@pytest.mark.parametrize("times", [(1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1), (3, 3, 1, 3, 2, 3), (5, 1, 6, 2, 4, 3)])
def test_the_last_records_are_those_whose_packets_came_last(monkeypatch: pytest.MonkeyPatch, times: tuple[int, ...]) -> None:
    """Wherever one batch ends and the next begins, and whenever each was told: a flow is told when it is over."""
    monkeypatch.setattr(held, "_ROWS_AT_ONCE", 1)  # so that few records are many, of which some are left as more come
    given = iter(enumerate(times))
    batches = []
    for number, count in enumerate((3, 0, 2, 1)):
        mine = [next(given) for _ in range(count)]
        batch = enriched_batch(count, sequence=number)
        columns = {"flow_id": [place for place, _ in mine], "end_unix_ns": [time for _, time in mine]}
        columns = {name: np.array(values, np.uint64) for name, values in columns.items()}
        batches.append(replace(batch, columns=batch.columns | columns))
    in_order = sorted(range(len(times)), key=times.__getitem__)
    for last in (1, 2, 3, 5, 6, 9, None):
        found = [row["flow_id"] for row, _ in by_time(latest(map(Held, batches), last))]
        assert found == in_order[-last if last else 0 :]


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
    assert head.split() == ["TIME", "SOURCE", "DESTINATION", "PROTOCOL", "OUTCOME", "VERDICT", "SENT", *head.split()[7:]]
    assert "shop/web:48112" in row
    assert f"{long}:6379" in row


def test_what_was_wrong_is_shown_beside_the_outcome() -> None:
    """At the end of the line and in the table, with what decided it; in JSON as it is. What is well needs no words."""
    slow = record_batch(verdict=Verdict.SERVER_SLOW, verdict_measure=VerdictMeasure.RESPONSE_TIME_MAX)
    well = record_batch(verdict=Verdict.OK)
    assert "2 times)  server slow (flow.response.time_max)\n" in shown(lines=json_lines(slow)).stdout
    assert "ok" not in shown(lines=json_lines(well)).stdout
    rows_of = [shown("-o", "table", lines=json_lines(batch)).stdout.splitlines()[1] for batch in (slow, well, record_batch())]
    assert [re.split(r"  +", row)[5] for row in rows_of] == ["server slow", "ok", "-"]
    (row,) = map(json.loads, shown("-o", "json", lines=json_lines(slow)).stdout.splitlines())
    assert (row["verdict"], row["verdict_measure"]) == ("server_slow", "response_time_max")


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


@pytest.mark.parametrize("form", ["compact", "table", "json", "dict"])
def test_nothing_of_a_record_commands_the_terminal(form: str) -> None:
    """Neither what names are, nor what their attributes are called; C1 control characters are control characters too."""
    hostile = Entity("k8s.pod", {"k8s.pod.name": "a\x9b2Jb\u202ec", "x\x1b]0;t\x07": "y\x1b[31m", "k8s.namespace.name": "shop"})
    lines = json_lines(record_batch(entities=[hostile], local_entity=0))
    out = shown("-o", form, lines=lines).stdout
    assert out.replace("\n", "").isprintable()
    if form == "json":
        assert json.loads(out) == json.loads(lines[0])


def test_decode_commands_no_terminal() -> None:
    """It is for `nats sub --translate`, which prints on one."""
    batch = record_batch(entities=[HOSTILE], local_entity=0)
    out = CliRunner().invoke(decode_command, input=encode(batch), catch_exceptions=False).stdout
    assert out.rstrip("\n").isprintable()
    assert json.loads(out) == next(rows(batch))


def test_what_passed_lately_is_shown_in_order_and_with_its_date() -> None:
    """An idle flow's record comes late; times of other days would else pass for today's."""
    times = [START + second * 10**9 for second in (3, 1, 2)]
    lines = json_lines(*(record_batch(end_unix_ns=time) for time in times))
    out = shown("--last", "2", lines=lines).stdout.splitlines()
    assert [line.split("  ")[0] for line in out] == ["2023-11-14 22:13:22.000", "2023-11-14 22:13:23.000"]
    head, *body = shown("-o", "table", "--since", "2020-01-01", lines=lines).stdout.splitlines()
    assert [line[:23] for line in body] == [f"2023-11-14 22:13:2{second}.000" for second in (1, 2, 3)]
    assert {line.index("10.0.0.5") for line in body} == {head.index("SOURCE")}
    today = shown(lines=json_lines(record_batch(end_unix_ns=time.time_ns()))).stdout
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3}  10", today)


def test_what_a_span_does_not_say_is_not_in_its_json() -> None:
    """A span of few attributes gives a row of few keys: no zero that nobody measured."""
    attributes = {
        "flow.direction": "forward", "source.address": "10.0.0.5", "destination.address": "10.0.0.8", "flow.record": 0,
        "network.transport": "tcp", "flow.bytes.delta": 7, "flow.ip.ttl": 64, "flow.request.unanswered": 1,
        "flow.verdict": "path_loss", "flow.verdict.measure": "flow.tcp.retransmits",
    }  # fmt: skip
    span = {
        "traceId": "0" * 31 + "1", "startTimeUnixNano": str(START), "endTimeUnixNano": str(START + 5),
        "attributes": [
            {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
            for key, value in attributes.items()
        ],
    }  # fmt: skip
    resource = {"attributes": [{"key": "host.name", "value": {"stringValue": "n"}}]}
    request = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}
    (row,) = map(json.loads, shown("-o", "json", lines=[json.dumps(request)]).stdout.splitlines())
    assert (row["tx_bytes"], row["tx_hop_limit"], row["request_waits"]) == (7, 64, 1)
    assert (row["verdict"], row["verdict_measure"]) == ("path_loss", "retransmits")
    assert not {"rx_bytes", "local_port", "responses", "response_time_max_ns", "tx_retransmits", "syn_unix_ns"} & set(row)
    assert "->" in shown(lines=[json.dumps(request)]).stdout


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
