"""Reading a snapshot file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.enricher.errors import SnapshotError
from services.enricher.kubernetes.pods import Pod
from services.enricher.kubernetes.snapshot import Snapshot, read_snapshot
from tests.unit.enricher.objects_as_json import node, owner_object, pod, service

ITEMS = [pod("cart-1", "10.0.0.1"), service("cart", "10.96.0.1"), node("node-a", "172.18.0.2")]
BUNDLED = Path(__file__).parents[3] / "data" / "cluster.json"


def read(path: Path, content: str) -> Snapshot:
    """The snapshot that a file of this content is."""
    path.write_text(content)
    return read_snapshot(path)


def names(snapshot: Snapshot) -> list[str]:
    """Names of its objects."""
    return [each.metadata.name for each in snapshot.objects]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"apiVersion": "v1", "kind": "List", "items": ITEMS}),
        json.dumps(ITEMS),
        "\n".join(json.dumps(item, indent=4) for item in ITEMS),
        "---\n" + "\n---\n".join(json.dumps(item) for item in ITEMS) + "\n---\n",
        "\ufeff" + json.dumps({"apiVersion": "v1", "kind": "List", "items": ITEMS}),
    ],
    ids=["list", "array", "concatenated", "separated", "byte order mark"],
)
def test_every_shape_gives_the_same_objects(tmp_path: Path, content: str) -> None:
    """A List, an array, documents one after another: all are read."""
    snapshot = read(tmp_path / "cluster.json", content)
    assert names(snapshot) == ["cart-1", "cart", "node-a"]
    assert not snapshot.skipped


def test_items_of_a_typed_list_need_no_kind(tmp_path: Path) -> None:
    """The API's PodList does not repeat its kind in every item."""
    items = [{key: value for key, value in ITEMS[0].items() if key not in ("kind", "apiVersion")}]
    snapshot = read(tmp_path / "pods.json", json.dumps({"kind": "PodList", "apiVersion": "v1", "items": items}))
    assert [type(each) for each in snapshot.objects] == [Pod]


def test_what_cannot_be_used_is_counted_and_left_out(tmp_path: Path) -> None:
    """Unknown kinds, objects without a name, and objects of a wrong shape do not stop the others."""
    nameless = pod("x", "10.0.0.9")
    del nameless["metadata"]["name"]
    broken = pod("broken", "10.0.0.8")
    broken["status"]["podIPs"] = "10.0.0.8"
    other_service = service("serving", "10.96.0.7") | {"apiVersion": "serving.knative.dev/v1"}
    items = [{"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}}, other_service, nameless, broken, ITEMS[0], 5]
    snapshot = read(tmp_path / "cluster.json", json.dumps({"kind": "List", "apiVersion": "v1", "items": items}))
    assert names(snapshot) == ["cart-1"]
    assert snapshot.skipped == {"kind": 2, "name": 1, "malformed": 2}


def test_null_is_as_good_as_absent(tmp_path: Path) -> None:
    """Go writes an empty list as null; every list and map field takes it."""
    item: dict[str, Any] = pod("cart-1", labels=None, annotations=None)
    item["spec"] |= {"containers": None, "initContainers": None, "hostNetwork": None}
    item["status"] |= {
        "podIPs": None,
        "podIP": None,
        "containerStatuses": None,
        "initContainerStatuses": None,
        "startTime": None,
    }
    empty_slice = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"}, "endpoints": None}
    bare = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"}, "spec": {"ports": None, "clusterIPs": None}}
    set_of_pods = owner_object("ReplicaSet", "cart-5d78c9869d")
    items = [item, empty_slice | {"ports": None}, bare, set_of_pods, node("n") | {"status": {"addresses": None}}]
    snapshot = read(tmp_path / "cluster.json", json.dumps(items))
    assert len(snapshot.objects) == 5
    assert not snapshot.skipped


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        ("", "the file is empty"),
        ("apiVersion: v1\nkind: List\n", "malformed"),
        ('{"kind": "List", "items": [', "truncated"),
        ('{"items": []}', "without `kind`"),
        ('{"kind": "List"} trailing', "Expecting value"),
        ("42", "object"),
        ('"\\ud800"', ""),
    ],
)
def test_no_snapshot_is_one_line(tmp_path: Path, content: str, detail: str) -> None:
    """Whatever is wrong with the file, the error names it and is one line."""
    path = tmp_path / "cluster.json"
    with pytest.raises(SnapshotError) as caught:
        read(path, content)
    assert str(caught.value).startswith(f"{path}: ")
    assert detail in caught.value.detail
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A binary file is refused like any other that is not JSON."""
    path = tmp_path / "cluster.json"
    path.write_bytes(b'{"kind": "List"}\xff\xfe\x00')
    with pytest.raises(SnapshotError):
        read_snapshot(path)


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """The system's reason is given."""
    with pytest.raises(SnapshotError, match=r"No such file|Is a directory"):
        read_snapshot(tmp_path / name)


def test_kinds_with_addresses_that_were_left_out_are_named(tmp_path: Path) -> None:
    """Every cluster has pods, nodes and Services: without them, nobody can know that an address is not one of theirs."""
    snapshot = read(
        tmp_path / "cluster.json", json.dumps({"kind": "List", "items": [pod("a"), owner_object("ReplicaSet", "b")]})
    )
    assert snapshot.missing_kinds == ["Node", "Service"]
    assert read_snapshot(BUNDLED).missing_kinds == []


def test_the_bundled_cluster_is_read_whole() -> None:
    """Nothing of the cluster that comes with the project is left out."""
    snapshot = read_snapshot(BUNDLED)
    assert len(snapshot.objects) == len(json.loads(BUNDLED.read_text())["items"])
