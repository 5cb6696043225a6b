"""Whatever an API server says, it is an object, one that is left out, or an error of ours: no answer ends who follows it."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.enricher.errors import ApiRefusedError, ApiUnreachableError
from services.enricher.index.claims import packed_address
from services.enricher.index.cluster import Cluster
from services.enricher.index.interval_table import NOBODY, address_words
from services.enricher.kubernetes.api import KubeApi
from services.enricher.kubernetes.reflector import Reflector, Update
from services.enricher.kubernetes.resources import ALL_RESOURCES, RESOURCES, Resource
from services.enricher.kubernetes.selection import Selection
from tests.unit.enricher.objects_as_json import NOW, SECOND

_ADDRESSES = ("10.0.0.1", "::1")
_TIMES = ("2023-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2023-01-01T00:00:00+14:00")
_OTHERS = (
    "::ffff:10.0.0.1",
    "fe80::1%eth0",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "999.1.1.1",
    "None",
    "TCP",
    "Node",
    "Pod",
    "Running",
    "[",
)
_texts = st.text(max_size=8) | st.sampled_from([*_ADDRESSES, *_TIMES, *_OTHERS])
_numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_scalars = st.none() | st.booleans() | _numbers | _texts
_trees = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3), max_leaves=8
)


_leaves: dict[type[msgspec.inspect.Type], st.SearchStrategy[Any]] = {
    msgspec.inspect.NoneType: st.none(),
    msgspec.inspect.BoolType: st.booleans(),
    msgspec.inspect.IntType: st.integers(-1, 2**31) | st.sampled_from([80, 65535, 65536, 2**63]),
}


def _shaped(kind: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """Values of the shape that a field has."""
    match kind:
        case msgspec.inspect.StructType(fields=fields):
            shape = {field.encode_name: _shaped(field.type) for field in fields}
            needed = {field.encode_name: shape.pop(field.encode_name) for field in fields if field.required}
            return st.fixed_dictionaries(needed, optional=shape)
        case msgspec.inspect.UnionType(types=types):
            return st.one_of([_shaped(each) for each in types])
        case msgspec.inspect.VarTupleType(item_type=item) | msgspec.inspect.ListType(item_type=item):
            return st.lists(_shaped(item), max_size=2)
        case msgspec.inspect.DictType(value_type=value):
            return st.dictionaries(_texts, _shaped(value), max_size=2)
        case _:
            return _leaves.get(type(kind), _texts)


_OBJECTS = {resource: _shaped(msgspec.inspect.type_info(resource.model)) for resource in ALL_RESOURCES}
_types = st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "?"])


def _following(resource: Resource, api: KubeApi | None = None) -> tuple[Reflector, list[Update]]:
    updates: list[Update] = []
    api = api or KubeApi.__new__(KubeApi)  # nothing is asked of it
    following = Reflector(api, resource, "", updates.append, selection=Selection(), watch_seconds=60, longest_wait_seconds=1)
    return following, updates


@given(st.data())
def test_any_objects_are_taken_into_the_index_or_left_out(data: st.DataObject) -> None:
    """Of any kind, with any fields in their shape or out of it, new, changed and deleted; and who is asked for is found out."""
    cluster = Cluster()
    for second in range(data.draw(st.integers(1, 4))):
        resource = data.draw(st.sampled_from(ALL_RESOURCES))
        following, updates = _following(resource)
        item = data.draw(_OBJECTS[resource] | _trees)
        line = msgspec.json.encode({"type": data.draw(_types), "object": item})
        with contextlib.suppress(ApiRefusedError, ApiUnreachableError):
            following._read([line], None)
        at = NOW + second * SECOND
        for change in (change for update in updates for change in update.changes):
            if change.deleted:
                cluster.remove(change.obj, observed_unix_ns=at)
            else:
                cluster.feed(change.obj, observed_unix_ns=at)
    index = cluster.compile()
    high, low = address_words(np.array([packed_address(address) for address in _ADDRESSES], "V16"))
    holders = index.holders(high, low, np.full(len(_ADDRESSES), NOW + SECOND, np.uint64))
    index.entities([int(number) for number in holders if number != NOBODY])


@given(st.lists(st.binary(max_size=60) | _trees.map(msgspec.json.encode), max_size=4))
def test_any_lines_of_a_watch(lines: list[bytes]) -> None:
    """A fault that is answered with patience, or news."""
    following, _ = _following(RESOURCES[0])
    with contextlib.suppress(ApiRefusedError, ApiUnreachableError):
        following._read(lines, [])
