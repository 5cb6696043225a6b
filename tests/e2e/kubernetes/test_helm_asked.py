"""The chart with `correlation.intake`: who asks, who hears, and who does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proto.subjects import asked_subject
from services.runtime.nats.bus import connect
from tests.support.kubernetes.helm_chart import RELEASE, HelmError, merged, render
from tests.support.kubernetes.helm_nats import NODE, plain_client, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the first to ask for a tool may build it

OTHER = "node-a"
ON = {"correlation": {"intake": {"enabled": True}}}


@pytest.mark.parametrize("nodes", [[NODE, OTHER], []])
async def test_a_node_hears_what_it_is_asked(helm_binary: Path, tmp_path: Path, nodes: list[str]) -> None:
    """The enricher's questions reach the capture of their node, and with a user for each node no other may listen."""
    with running(render(helm_binary, merged(ON, {"nats": {"auth": {"nodes": nodes}}})), tmp_path) as bus:
        async with (
            connect(bus.settings("capture", NODE), name="capture") as capture,
            connect(bus.settings("enricher"), name="enricher") as enricher,
        ):
            await enricher.ensure_streams()
            watch = capture.watch(asked_subject(NODE))
            await watch.start()
            await capture.may_publish()  # whoever is answered is heard: the subscription was sent before
            assert await enricher.tell([(asked_subject(NODE), b"what?")], timeout_seconds=30) == [True]
            async with asyncio.timeout(30):
                assert (await anext(watch)).data == b"what?"
        if nodes:
            refusals: list[str] = []
            async with plain_client(bus.settings("capture", NODE), refusals) as connected:
                await connected.subscribe(asked_subject(OTHER))
                await connected.publish(asked_subject(NODE), b"!")
                await connected.flush()
                async with asyncio.timeout(30):
                    while len(refusals) < 2:  # noqa: ASYNC110 - what is waited for has no event
                        await asyncio.sleep(0.05)


def test_spans_find_their_way_in(helm_binary: Path) -> None:
    """A Service with the standard ports is in front of the enrichers, and a policy lets the senders named through."""
    senders = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}]
    rendered = render(helm_binary, merged(ON, {"correlation": {"intake": {"from": senders}}}))
    service = rendered.one("Service", f"{RELEASE}-wirespan-intake")
    assert [(port["name"], port["port"]) for port in service["spec"]["ports"]] == [("otlp-grpc", 4317), ("otlp-http", 4318)]
    assert service["spec"]["selector"]["app.kubernetes.io/component"] == "enricher"
    policy = rendered.one("NetworkPolicy", f"{RELEASE}-wirespan-enricher")
    (rule,) = [rule for rule in policy["spec"]["ingress"] if rule["ports"][0]["port"] == 4317]
    assert ([port["port"] for port in rule["ports"]], rule["from"]) == ([4317, 4318], senders)


def test_without_it_nothing_listens_and_nobody_may_ask(helm_binary: Path) -> None:
    """By default there is no Service, no port and no subject of it."""
    rendered = render(helm_binary, {})
    assert not [each for each in rendered.of_kind("Service") if each["metadata"]["name"].endswith("-intake")]
    assert "WIRESPAN_ENRICHER_INTAKE" not in rendered.environment("enricher")
    assert "spans.asked" not in str(rendered.objects)


@pytest.mark.parametrize("settings", [{"names": "off"}, {"names": "dns"}, {"trace_context": False}])
def test_what_captures_would_not_start_with_is_refused(helm_binary: Path, settings: dict[str, object]) -> None:
    """Meeting spans stands on what capture reads of handshakes and requests."""
    with pytest.raises(HelmError, match=rf"capture\.settings\.{next(iter(settings))}"):
        render(helm_binary, merged(ON, {"capture": {"settings": settings}}))
