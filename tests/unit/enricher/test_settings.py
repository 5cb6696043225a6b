"""Settings of the enricher."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.enricher.settings import EnricherSettings
from services.runtime.errors import SettingsError
from services.runtime.settings import load

PREFIX = "WIRESPAN_ENRICHER_"


def test_defaults() -> None:
    """What a user gets who sets nothing; a change here is a change for everybody."""
    settings = load(EnricherSettings, prefix=PREFIX, environ={})
    assert settings.kube_snapshot is None
    assert settings.service_name_from_labels is False
    assert (settings.tombstone_seconds, settings.concurrent_batches, settings.ack_wait_seconds) == (300.0, 32, 30.0)
    assert settings.cluster.name == ""
    assert (settings.kube.cache, settings.kube.lease_seconds, settings.kube.network_policies) == ("shared", 5.0, False)
    assert settings.external_networks == settings.kube.pod_labels == settings.kube.namespace_labels == ()


def test_from_the_environment() -> None:
    """Own settings have the service's prefix, shared ones their group's."""
    environ = {PREFIX + "KUBE_SNAPSHOT": "/etc/cluster.json", PREFIX + "SERVICE_NAME_FROM_LABELS": "true"}
    settings = load(EnricherSettings, prefix=PREFIX, environ=environ | {"WIRESPAN_CLUSTER_NAME": "prod"})
    assert (settings.kube_snapshot, settings.service_name_from_labels) == (Path("/etc/cluster.json"), True)
    assert settings.cluster.name == "prod"


@pytest.mark.parametrize(("name", "value"), [("CONCURRENT_BATCHES", "0"), ("ACK_WAIT_SECONDS", "0"), ("TOMBSTONES", "1")])
def test_what_cannot_work_is_refused(name: str, value: str) -> None:
    """A wrong value or a setting that does not exist names its variable."""
    with pytest.raises(SettingsError, match=PREFIX + name):
        load(EnricherSettings, prefix=PREFIX, environ={PREFIX + name: value})


@pytest.mark.parametrize("networks", ["office", "=10.0.0.0/8", "office=10.0.0.0/40", "a=10.0.0.0/8,b=10.0.0.0/8"])
def test_networks_that_are_none_are_refused(networks: str) -> None:
    """What is no name with a network, or gives one network two names, is one line before anything starts."""
    with pytest.raises(SettingsError, match=r"10\.0|office"):
        load(EnricherSettings, prefix=PREFIX, environ={PREFIX + "EXTERNAL_NETWORKS": networks})
