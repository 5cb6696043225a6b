"""What backends answer, in whichever envelope and with whichever spelling of ids."""

from __future__ import annotations

import base64

import pytest

from services.cli.errors import UsageError
from services.cli.explain.backend import _requests, trace_of

SPAN = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "name": "GET", "attributes": []}
IN_BASE64 = {**SPAN, **{name: base64.b64encode(bytes.fromhex(SPAN[name])).decode() for name in ("traceId", "spanId")}}


def spans(span: dict) -> list[dict]:
    """One span as resourceSpans has it."""
    return [{"scopeSpans": [{"spans": [span]}]}]


@pytest.mark.parametrize(
    "answer",
    [
        {"result": {"resourceSpans": spans(SPAN)}},
        {"trace": {"resourceSpans": spans(IN_BASE64)}},
        {"batches": spans(IN_BASE64)},
        {"resourceSpans": spans(SPAN)},
    ],
    ids=["jaeger", "tempo 2", "tempo 1", "otlp"],
)
def test_each_backends_answer_is_the_same_spans(answer) -> None:
    """Ids come out in hexadecimal, as OTLP/JSON has them."""
    assert list(_requests(answer)) == [{"resourceSpans": spans(SPAN)}]


def test_what_is_no_trace_is_nothing_and_what_is_no_id_an_error() -> None:
    """An answer without spans has none."""
    assert list(_requests({"result": {}})) == []
    with pytest.raises(ValueError, match="is no id"):
        list(_requests({"batches": spans({**SPAN, "spanId": "?"})}))


def test_only_http_is_asked() -> None:
    """A file's URL would be read otherwise."""
    with pytest.raises(UsageError, match="no backend"):
        list(trace_of("file:///etc/passwd", "0" * 32))
