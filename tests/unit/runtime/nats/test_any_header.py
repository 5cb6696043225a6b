"""Whatever stands around a message's content, it is headers or none: nothing ends the loop that reads the socket."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.subjects import RECORDS_HEADER, SPANS_HEADER
from services.cli.run.ledger import read_dead_letter
from services.runtime.nats.client import OneSocketClient
from services.runtime.nats.connection import Message

_KNOWN = ("Status", "Description", "Nats-Msg-Id", "Nats-Pending-Messages", RECORDS_HEADER)
_names = st.sampled_from(_KNOWN) | st.text(max_size=6)
_values = st.text(max_size=12) | st.integers(-(10**30), 10**30).map(str)
_lines = st.lists(st.tuples(_names, _values).map(": ".join), max_size=4).map("\r\n".join)
_blocks = st.builds(
    lambda status, lines, end: f"NATS/1.0{status}\r\n{lines}{end}".encode(errors="surrogatepass"),
    st.sampled_from(["", " 404", " 408 Request Timeout", " 100 ", " x", " \u00b2\u00b2\u00b2"]),
    _lines,
    st.sampled_from(["\r\n\r\n", "\r\n", ""]),
)


@given(st.binary(max_size=80) | _blocks)
def test_any_block_of_headers(block: bytes) -> None:
    """Text by name, or an error that is told; a status and a count are numbers, whoever has written them."""

    async def parse() -> dict[str, str] | None:
        client = OneSocketClient()

        async def tell(error: Exception) -> None:
            assert str(error)

        client._error_cb = tell
        found: dict[str, str] | None = await client._process_headers(block)
        return found

    headers = asyncio.run(parse()) or {}
    assert all(isinstance(text, str) for pair in headers.items() for text in pair)
    message = Message("s", "", b"", headers)
    assert 0 <= message.status <= 999
    assert isinstance(message.description, str)
    assert (message.number("Nats-Pending-Messages") or 0) >= 0


@given(st.dictionaries(st.sampled_from([RECORDS_HEADER, SPANS_HEADER]), _values), st.binary(max_size=40))
def test_any_headers_of_a_dead_letter(headers: dict[str, str], data: bytes) -> None:
    """How many are lost is a number, which is never below 0."""
    assert read_dead_letter("flows.dead.exporter", headers, data).lost >= 0


@pytest.mark.parametrize("text", ["\u00b2", "9" * 5000, "-1", "1_0", " 1"])
def test_what_only_looks_like_a_number(text: str) -> None:
    """Digits that are no number to Python, or more of them than it reads."""
    assert Message("s", "", b"", {"Nats-Pending-Messages": text}).number("Nats-Pending-Messages") is None
    assert read_dead_letter("flows.dead.exporter", {RECORDS_HEADER: text}, b"").records is None
