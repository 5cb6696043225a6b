"""Names of containers from what Docker and Podman keep on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.capture.live.owners.container_names import with_name

ID = "ab" * 32


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine's files with a container of each."""
    docker = tmp_path / "var/lib/docker/containers" / ID
    docker.mkdir(parents=True)
    config = {"ID": ID, "Name": "/web", "Config": {"Image": "nginx:1.27", "Env": []}, "State": {"Running": True}}
    (docker / "config.v2.json").write_text(json.dumps(config))
    podman = tmp_path / "var/lib/containers/storage/overlay-containers"
    podman.mkdir(parents=True)
    (podman / "containers.json").write_text(json.dumps([{"id": ID, "names": ["db"], "image": "f00"}, {"id": "x", "names": []}]))
    return tmp_path


def test_a_container_has_the_name_that_its_user_gave_it(root: Path) -> None:
    """Docker's has its image too; what the path of a control group does not say of the runtime is Docker's or nobody's."""
    for runtime in ("docker", ""):
        row = {"container_id": ID, "container_runtime": runtime}
        assert with_name(row, root) == {**row, "container_name": "web", "container_image": "nginx:1.27"}
    row = {"container_id": ID, "container_runtime": "podman"}
    assert with_name(row, root) == {**row, "container_name": "db"}


@pytest.mark.parametrize(
    "row",
    [
        {"container_id": "cd" * 32, "container_runtime": "docker"},
        {"container_id": "cd" * 32, "container_runtime": "podman"},
        {"container_id": ID, "pod_uid": "u"},
        {"container_id": ID, "container_name": "machine"},
        {"systemd_unit": "nginx.service"},
    ],
)
def test_what_has_a_name_or_none_is_left_as_it_is(root: Path, row: dict[str, str]) -> None:
    """Unknown ids, pods, machines, units."""
    assert with_name(row, root) == row


def test_a_file_of_another_form_is_no_fault(root: Path) -> None:
    """The id has to do."""
    (root / "var/lib/docker/containers" / ID / "config.v2.json").write_text("[")
    row = {"container_id": ID, "container_runtime": "docker"}
    assert with_name(row, root) == row
