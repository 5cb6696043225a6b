"""The numpy mirror of `struct flow` is the one the C compiler lays out."""

from __future__ import annotations

import re
from functools import partial

import pytest

import bpf
from proto import columns
from services.capture.flows import layout as flow_layout
from services.capture.replay import layout as replay_layout
from services.capture.replay import library
from services.capture.replay import source as replay_source
from tests.support.packets.c_layout import printed_by_c

DECLARATIONS = """
#include "replay/arrival/arrival.h"
"""


@pytest.fixture
def printed(tmp_path):
    """What C statements print, by name."""
    return partial(printed_by_c, DECLARATIONS, folder=tmp_path)


def c_member(name, array="sides"):
    """The C spelling of a mirror member."""
    side = re.fullmatch(r"(tx|rx)_(.*)", name)
    return f"{array}[{0 if side[1] == 'tx' else 1}].{side[2]}" if side else name


def flow_members():
    """The members of the structs of flow.h but padding, by struct."""
    source = source_of("engine/flow.h")
    members = {}
    for struct in ("flow_side", "flow_side_rare", "flow"):
        body = re.search(rf"^struct {struct} \{{\n(.*?)^\}};", source, re.MULTILINE | re.DOTALL)[1]
        members[struct] = set(re.findall(r"^\s+__u\d+ (\w+)", body, re.MULTILINE)) - {"pad"}
    return members


def test_every_member_lies_where_the_compiler_puts_it(printed):
    """Offsets and sizes of all members, and the size of a slot."""
    lines = ['printf("size %zu\\n", sizeof(struct flow));']
    rare = flow_members()["flow_side_rare"]
    for name in flow_layout.MEMBERS:
        member = c_member(name, "rare" if name[3:] in rare else "sides")
        lines.append(f'printf("{name}.offset %zu\\n", offsetof(struct flow, {member}));')
        lines.append(f'printf("{name}.size %zu\\n", sizeof(((struct flow *)0)->{member}));')
    expected = {"size": flow_layout.FLOW.itemsize}
    for name in flow_layout.MEMBERS:
        dtype, offset = flow_layout.FLOW.fields[name]
        expected |= {f"{name}.offset": offset, f"{name}.size": dtype.itemsize}
    assert printed(lines) == expected
    assert expected["size"] <= 456
    assert expected["size"] % 8 == 0


def test_what_is_around_a_flow_lies_where_the_compiler_puts_it(printed):
    """Offsets and sizes of `struct flow_outer`, every member but padding, and how deep tunnels are opened."""
    lines = ['printf("size %zu\\ndepth %d\\n", sizeof(struct flow_outer), TUNNEL_DEPTH);']
    expected = {"size": replay_layout.OUTER.itemsize, "depth": replay_layout.TUNNEL_DEPTH}
    for name in replay_layout.OUTER_MEMBERS:
        lines.append(f'printf("{name} %zu\\n", offsetof(struct flow_outer, {c_member(name)}));')
        expected[name] = replay_layout.OUTER.fields[name][1]
    assert printed(lines) == expected
    body = "".join(
        re.findall(
            r"^struct (?:outer_side|flow_outer) \{\n(.*?)^\};", source_of("replay/arrival/outer.h"), re.MULTILINE | re.DOTALL
        )
    )
    members = set(re.findall(r"^\s+__u\d+ (\w+)", body, re.MULTILINE)) - {"pad"}
    assert {name.removeprefix("tx_").removeprefix("rx_") for name in replay_layout.OUTER_MEMBERS} == members


def source_of(header):
    """The text of one of bpf's headers."""
    return (bpf.SOURCE_DIRECTORY / header).read_text()


def test_no_member_is_left_out():
    """Every member of the C structs but padding has its mirror."""
    members = flow_members()
    sides = members["flow_side"] | members["flow_side_rare"]
    expected = members["flow"] | {f"{side}_{name}" for side in ("tx", "rx") for name in sides}
    assert set(flow_layout.MEMBERS) == expected


def test_numbers_have_the_same_names(printed):
    """Enums of C, of the wire and of capture agree."""
    pairs = {
        "FLOW_ROLE": columns.Role,
        "FLOW_OUTCOME": columns.Outcome,
        "FLOW_END": columns.End,
        "PACKET": flow_layout.Disposition,
        "TUNNEL": columns.Tunnel,
    }
    expected = {f"{prefix}_{member.name}": int(member) for prefix, enum in pairs.items() for member in enum}
    expected |= {"FLOW_" + state.name: int(state) for state in flow_layout.State}
    expected |= {
        "FLOW_KNOWN_ISN": flow_layout.KNOWN_ISN,
        "FLOW_KNOWN_NEXT": flow_layout.KNOWN_NEXT,
        "FLOW_KNOWN_ACKNOWLEDGED": flow_layout.KNOWN_ACKNOWLEDGED,
        "FLOW_KNOWN_ROLE": flow_layout.KNOWN_ROLE,
        "FLOW_KNOWN_ROLE_SHIFT": flow_layout.KNOWN_ROLE_SHIFT,
        "FLOW_ROLE_OF_HANDSHAKE": columns.RoleSource.HANDSHAKE,
        "FLOW_ROLE_OF_LISTENER": columns.RoleSource.LISTENER,
        "FLOW_ROLE_OF_CONTENT": columns.RoleSource.CONTENT,
        "FLOW_ROLE_OF_PORTS": columns.RoleSource.PORTS,
        "FLOW_RESPONSE_TIME_BUCKETS": columns.RESPONSE_TIME_BUCKETS,
        "PACKET_DISPOSITIONS": len(flow_layout.Disposition),
    }
    assert printed(f'printf("{name} %d\\n", (int){name});' for name in expected) == expected
    assert 2 * printed(['printf("unit %d\\n", FLOW_RESPONSE_TIME_UNIT_NS);'])["unit"] == columns.RESPONSE_TIME_FIRST_BOUND_NS


def test_the_replay_library_stops_for_the_reasons_python_knows():
    """`enum replay_stop` in order, and as many counters as `struct replay_counters` has."""
    source = source_of("replay/replay.c")
    stops = re.findall(r"^\s+REPLAY_(\w+),", source, re.MULTILINE)
    assert stops == ["UNTIL", "PACKETS", "END", "TABLE_FULL", "CUT", "EXCHANGES", "PIECES"]
    assert [stop.name.removesuffix("_OF_FILE") for stop in replay_source.Stop] == stops
    body = re.search(r"^struct replay_counters \{\n(.*?)^\};", source_of("replay/slot_table.h"), re.MULTILINE | re.DOTALL)[1]
    names = re.findall(r"^\s+__u64 (\w+)", body, re.MULTILINE)
    assert [name for name, *_ in library.ReplayCounters._fields_] == names
