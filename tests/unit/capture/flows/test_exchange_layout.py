"""The numpy mirror of `struct exchange` is the one the C compiler lays out, and both count by the same words."""

from __future__ import annotations

import re
from functools import partial

import pytest

import bpf
from proto.columns import ExchangeEnd, HttpMethod
from services.capture.flows.exchange_layout import EXCHANGE, MEMBERS, RequestCounter
from services.capture.replay import library
from tests.support.packets.c_layout import printed_by_c

DECLARATIONS = """
#include "replay/exchanges/exchanges.h"
"""


@pytest.fixture
def printed(tmp_path):
    """What C statements print, by name."""
    return partial(printed_by_c, DECLARATIONS, folder=tmp_path)


def test_every_member_lies_where_the_compiler_puts_it(printed):
    """Offsets and sizes, and the size of an exchange."""
    lines = ['printf("size %zu\\n", sizeof(struct exchange));']
    expected = {"size": EXCHANGE.itemsize}
    for name in MEMBERS:
        lines.append(f'printf("{name}.offset %zu\\n", offsetof(struct exchange, {name}));')
        lines.append(f'printf("{name}.size %zu\\n", sizeof(((struct exchange *)0)->{name}));')
        dtype, offset = EXCHANGE.fields[name]
        expected |= {f"{name}.offset": offset, f"{name}.size": dtype.itemsize}
    assert printed(lines) == expected


def test_numbers_have_the_same_names(printed):
    """Why an exchange is over, and what became of a request."""
    expected = {f"EXCHANGE_END_{end.name}": int(end) for end in ExchangeEnd if end}
    expected |= {f"HTTP_METHOD_{method.name}": int(method) for method in HttpMethod}
    for counter in RequestCounter:
        of_connection = counter >= RequestCounter.CONNECTION_TLS
        kind = "" if of_connection else "TRACE_" if counter < RequestCounter.OVERTAKEN else "REQUEST_"
        expected[f"{kind}{counter.name}"] = int(counter)
    expected |= {"REQUEST_COUNTERS": len(RequestCounter)}
    assert printed(f'printf("{name} %d\\n", (int){name});' for name in expected) == expected


def test_replay_keeps_exchanges_where_python_looks_for_them(printed):
    """`struct exchanges`, member by member."""
    fields = library.OpenExchanges._fields_
    lines = [f'printf("{name} %zu\\n", offsetof(struct exchanges, {name}));' for name, _ in fields]
    assert printed(lines) == {name: getattr(library.OpenExchanges, name).offset for name, _ in fields}


def test_no_member_is_left_out():
    """Every member of the C structure that the reader may want has its mirror."""
    source = (bpf.SOURCE_DIRECTORY / "engine" / "exchanges" / "exchange.h").read_text()
    body = re.search(r"^struct exchange \{\n(.*?)^\};", source, re.MULTILINE | re.DOTALL)[1]
    members = set(re.findall(r"^\s+__u\d+ (\w+)", body, re.MULTILINE))
    assert members - set(MEMBERS) == {
        *("payload_before", "resent_bytes_before", "resent_before"),
        *("status_ns", "status_line", "status_bytes", "awaits"),
    }
