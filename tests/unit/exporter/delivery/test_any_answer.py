"""Whatever a backend answers, it is an outcome: no answer makes an attempt raise, and so a batch a dead letter."""

from __future__ import annotations

import math

import grpc
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from services.exporter.delivery.grpc import _failure
from services.exporter.delivery.http import _unix_seconds
from services.exporter.delivery.sink import Rejected, Retry, read_response

_numbers = st.integers(0, 10**25).map(str)
_dates = st.tuples(
    st.sampled_from(["Mon", "Fri", "x", ""]), _numbers, st.sampled_from(["Jan", "Dec", "Foo"]), _numbers, _numbers, _numbers,
    st.sampled_from(["GMT", "", "x"]) | st.integers(-(10**21), 10**21).map(lambda zone: f"{zone:+05d}"),
).map(lambda parts: "{}, {} {} {} {}:{}:00 {}".format(*parts))  # fmt: skip


@given(st.binary(max_size=200))
def test_any_body_of_an_acceptance(body: bytes) -> None:
    """It was accepted: nothing that comes with it takes that back, and no count of rejected spans is negative."""
    assert read_response(body).rejected_spans >= 0


@given(
    st.sampled_from([code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]),
    st.none() | st.text(max_size=30),
    st.lists(st.tuples(st.just("grpc-status-details-bin"), st.binary(max_size=60)), max_size=2),
)
def test_any_status_with_any_details(code: grpc.StatusCode, details: str | None, trailing: list[tuple[str, bytes]]) -> None:
    """Sent again or rejected; what it asks to be waited for is a number of seconds."""
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)
    outcome = _failure(error)
    assert isinstance(outcome, Retry | Rejected)
    if isinstance(outcome, Retry) and outcome.after_seconds is not None:
        assert outcome.after_seconds >= 0
        assert math.isfinite(outcome.after_seconds)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1))
def test_any_delay_of_retry_info(seconds: int, nanos: int) -> None:
    """Past, future, or out of all bounds."""
    from google.rpc.error_details_pb2 import RetryInfo

    info = RetryInfo()
    info.retry_delay.seconds, info.retry_delay.nanos = seconds, nanos
    status = Status()
    status.details.add().Pack(info)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    outcome = _failure(grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing, "busy"))
    assert isinstance(outcome, Retry)
    assert (outcome.after_seconds or 0) >= 0


@given(st.text(max_size=40) | _dates)
def test_any_date_of_a_header(text: str) -> None:
    """A moment, or none."""
    found = _unix_seconds(text)
    assert found is None or math.isfinite(found)


def test_a_year_that_no_clock_shows() -> None:
    """Found by the test above: an answer that held a batch up, and made it a dead letter in the end."""
    assert _unix_seconds("Mon, 01 Jan 99999999999999999999 00:00:00 GMT") is None
