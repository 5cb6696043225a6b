"""Names and images of containers outside Kubernetes, from what Docker and Podman keep on disk: no socket of theirs is asked."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from services.runtime.host.identity import plain_text

ROOT: Final = Path("/")
_DOCKER: Final = "var/lib/docker/containers"
_PODMAN: Final = "var/lib/containers/storage"
_MOST_BYTES: Final = 4 << 20


class _DockerConfig(msgspec.Struct, rename="pascal"):
    image: str = ""


class _DockerContainer(msgspec.Struct, rename="pascal"):
    name: str = ""
    config: _DockerConfig = msgspec.field(default_factory=_DockerConfig)


class _PodmanContainer(msgspec.Struct):
    id: str = ""
    names: list[str] = []


_docker: Final = msgspec.json.Decoder(_DockerContainer)
_podman: Final = msgspec.json.Decoder(list[_PodmanContainer])


def with_name(row: dict[str, str], root: Path = ROOT) -> dict[str, str]:
    """Return a row of a batch's `containers` with `container_name` and `container_image`, where it is of no pod and has any."""
    container_id = row.get("container_id")
    if not container_id or row.get("pod_uid") or row.get("container_name"):
        return row
    return {**row, **dict(_known(container_id, row.get("container_runtime", ""), root))}


@lru_cache(maxsize=4096)
def _known(container_id: str, runtime: str, root: Path) -> tuple[tuple[str, str], ...]:
    try:
        found = _of_podman(container_id, root) if runtime == "podman" else _of_docker(container_id, root)
    except (OSError, msgspec.DecodeError):
        return ()
    return tuple((key, plain_text(value)) for key, value in found.items() if value)


def _of_docker(container_id: str, root: Path) -> dict[str, str]:
    container = _docker.decode(_content(root / _DOCKER / container_id / "config.v2.json"))
    return {"container_name": container.name.removeprefix("/"), "container_image": container.config.image}


def _of_podman(container_id: str, root: Path) -> dict[str, str]:
    for path in sorted((root / _PODMAN).glob("*-containers/containers.json")):
        for container in _podman.decode(_content(path)):
            if container.id == container_id and container.names:
                return {"container_name": container.names[0]}
    return {}


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MOST_BYTES)
