"""Which cluster an API server is of, and whether it has come as far as what is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.enricher.cache.leader import kept_by
from services.enricher.errors import ApiRefusedError, ApiUnreachableError
from services.enricher.kubernetes.api import KubeApi, find_api
from services.enricher.kubernetes.identity import ClusterIdentity, has_reached
from services.enricher.kubernetes.resources import RESOURCES
from services.enricher.settings import KubeSettings
from tests.support.kubernetes.hostile_kube_api import HostileKubeApi, Request

SERVICE = {"metadata": {"name": "kubernetes", "uid": "u-1"}}


def api_of(server: HostileKubeApi, folder: Path) -> KubeApi:
    """A client of the server."""
    api = find_api("kubeconfig", kubeconfig=server.kubeconfig(folder), silence_seconds=5)
    assert api is not None
    return api


def test_a_cluster_is_known_by_its_service_kubernetes(tmp_path: Path) -> None:
    """Whoever may list services may know it; many who ask at once make one request."""
    with HostileKubeApi(lambda request: request.list(SERVICE)) as server:
        identity = ClusterIdentity(api_of(server, tmp_path))
        assert [identity.uid() for _ in range(10)] == ["u-1"] * 10
        assert [each.path for each in server.requests] == ["/api/v1/namespaces/default/services"]
        assert server.requests[0].query == {"fieldSelector": "metadata.name=kubernetes", "limit": "1"}


@pytest.mark.parametrize("answer", [
    lambda request: request.refuse(403), lambda request: request.refuse(404), lambda request: request.list(),
    lambda request: request.list({"metadata": {"name": "another", "uid": "u-2"}}),
])  # fmt: skip
def test_a_cluster_that_may_not_be_known_is_no_other(tmp_path: Path, answer) -> None:
    """Rights for some namespaces only are no fault."""
    with HostileKubeApi(answer) as server:
        assert ClusterIdentity(api_of(server, tmp_path)).uid() == ""


def test_a_server_that_cannot_say_is_asked_again(tmp_path: Path) -> None:
    """A fault says nothing of the cluster, and is not remembered."""
    with HostileKubeApi(lambda request: request.refuse(500)) as server:
        identity = ClusterIdentity(api_of(server, tmp_path))
        with pytest.raises(ApiRefusedError):
            identity.uid()
        server.answer = lambda request: request.send(200, b"<html>")
        with pytest.raises(ApiUnreachableError):
            identity.uid()
        server.answer = lambda request: request.list(SERVICE)
        assert identity.uid() == "u-1"


@pytest.mark.parametrize(
    ("newest", "known", "reached"),
    [("2000", "500000", False), ("500000", "500000", True), ("1000000", "500000", True), ("9", "10", False),
     ("abc", "500000", True), ("2000", "abc", True), ("", "7", True)],
)  # fmt: skip
def test_versions_are_compared_as_numbers(tmp_path: Path, newest: str, known: str, reached: bool) -> None:  # noqa: FBT001
    """Where one is none, nothing can be said of it; one object of the newest list is asked for and no more."""

    def answer(request: Request) -> None:
        request.list(SERVICE, version=newest, following="more")

    with HostileKubeApi(answer) as server:
        assert has_reached(api_of(server, tmp_path), RESOURCES[0], "", known) == reached
        assert [each.query for each in server.requests] == [{"limit": "1"}]


def test_what_is_kept_of_objects_is_told_apart_by_settings() -> None:
    """A leader that keeps other fields of objects than the one before lists all again."""
    plain = kept_by(KubeSettings())
    assert plain == kept_by(KubeSettings())
    others = [KubeSettings(pod_labels=("team",)), KubeSettings(namespaces=("shop",)), KubeSettings(network_policies=True)]
    assert len({plain, *map(kept_by, others)}) == 4
