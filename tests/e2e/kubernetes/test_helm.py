"""The chart through the real helm: what it renders, what it refuses, and what its pods may do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.cli.plan.figures import PRESETS
from services.cli.plan.model import Load, plan
from services.cli.plan.show import values
from services.runtime.health import Health, serve
from services.runtime.settings import HealthSettings, describe
from tests.support.kubernetes.helm_chart import (
    BACKEND,
    MATRIX,
    RELEASE,
    HelmError,
    Rendered,
    helm,
    merged,
    notes,
    render,
    sources,
)
from tests.support.kubernetes.helm_values import _SERVICES, CHART, settings_schemas
from tests.support.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the first to ask for a tool may build it

SERVICES = ("capture", "enricher", "exporter")
NEEDED_CAPABILITIES = ["BPF", "PERFMON", "NET_ADMIN"]
_rendered: dict[str, Rendered] = {}


@pytest.fixture(params=MATRIX)
def case(request: pytest.FixtureRequest, helm_binary: Path) -> Rendered:
    """The chart, rendered with the values of each case."""
    if request.param not in _rendered:
        _rendered[request.param] = render(helm_binary, MATRIX[request.param])
    return _rendered[request.param]


@pytest.mark.parametrize("name", MATRIX)
def test_lint_finds_nothing(helm_binary: Path, name: str) -> None:
    """`helm lint --strict` has nothing to say against the chart, whatever the values."""
    helm(helm_binary, "lint", "--strict", CHART, values=merged(BACKEND, MATRIX[name]))


def test_names_are_unique_and_every_reference_is_met(case: Rendered) -> None:
    """No two objects share kind, namespace and name; what pods refer to is made by the chart or named by the values."""
    keys = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in case.objects]
    assert len(keys) == len(set(keys))
    made = {(kind, name) for kind, _, name in keys}
    for component, spec in case.pods():
        for kind, name in references(spec):
            assert (kind, name) in made or not name.startswith(RELEASE), (component, kind, name)


def references(spec: dict[str, Any]) -> set[tuple[str, str]]:
    """Secrets, ConfigMaps and accounts that a pod refers to."""
    found = {("ServiceAccount", spec["serviceAccountName"])} if "serviceAccountName" in spec else set()
    for volume in spec.get("volumes", ()):
        found |= {(kind, source.get("secretName") or source["name"]) for kind, source in sources(volume)}
    for variable in spec["containers"][0].get("env", ()):
        if secret := variable.get("valueFrom", {}).get("secretKeyRef"):
            found.add(("Secret", secret["name"]))
    return {(kind, name) for kind, name in found if not name.endswith("-nats-server-tls")}


def test_nothing_is_privileged(case: Rendered) -> None:
    """No pod is privileged, shares a namespace of the host, escalates, or can write to its root; all drop every capability."""
    for component, spec in case.pods():
        assert not {"hostPID", "hostNetwork", "hostIPC"} & spec.keys(), component
        for container in spec["containers"]:
            context = container["securityContext"]
            assert not context.get("privileged"), component
            assert context["allowPrivilegeEscalation"] is False, component
            assert context["readOnlyRootFilesystem"] is True, component
            assert context["capabilities"]["drop"] == ["ALL"], component
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, component


def test_only_capture_is_root_and_has_three_capabilities(case: Rendered) -> None:
    """Capture alone runs as root, adds capabilities (three, or two on older runtimes) and sees a path of the host."""
    for component, spec in case.pods():
        (container,) = spec["containers"]
        context = container["securityContext"]
        paths = [volume["hostPath"]["path"] for volume in spec.get("volumes", ()) if "hostPath" in volume]
        if component == "capture":
            assert context["capabilities"]["add"] in (NEEDED_CAPABILITIES, ["SYS_ADMIN", "NET_ADMIN"])
            assert paths == ["/sys/fs/cgroup"]
            assert [mount["readOnly"] for mount in container["volumeMounts"] if mount["name"] == "cgroup"] == [True]
            continue
        assert "add" not in context["capabilities"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert paths == []


def test_tokens_are_the_enrichers_alone(case: Rendered) -> None:
    """Only the enricher has a token of the API server; a node has none to lose."""
    for component, spec in case.pods():
        assert spec["automountServiceAccountToken"] is (component == "enricher"), component
    for account in case.of_kind("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_services_do_not_become_settings(case: Rendered) -> None:
    """The kubelet makes no variables of Services: WIRESPAN_NATS_PORT, of a Service wirespan-nats, would stop every start."""
    for component, spec in case.pods():
        assert spec["enableServiceLinks"] is False, component


def test_roles_only_list_and_watch(case: Rendered) -> None:
    """No role of the chart has another verb than list and watch, a wildcard, or Secrets in it."""
    for role in case.of_kind("Role", "ClusterRole"):
        for rule in role["rules"]:
            assert set(rule["verbs"]) <= {"list", "watch"}
            assert not {"*", "secrets", "configmaps"} & set(rule["resources"])


def test_every_container_requests_resources(case: Rendered) -> None:
    """The scheduler knows what each container needs, and memory has a limit."""
    for component, spec in case.pods():
        for container in spec["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), component
            assert "memory" in container["resources"]["limits"], component


def test_no_variable_shows_a_secret(case: Rendered) -> None:
    """What is a secret comes by reference: no variable with such a name has a value, and no value holds generated text."""
    secrets = {
        text.decode()
        for each in case.of_kind("Secret")
        for key, text in case.data("Secret", each["metadata"]["name"]).items()
        if key in {"password", "token", "key", "headers"}
    }
    for component, spec in case.pods():
        for variable in spec["containers"][0].get("env", ()):
            assert not any(secret in variable.get("value", "") for secret in secrets), (component, variable["name"])
            if variable["name"].endswith(("PASSWORD_TEXT", "NATS_PASSWORD", "TOKEN", "HEADERS")):
                assert "valueFrom" in variable, (component, variable["name"])


def test_a_node_refers_to_no_secret_but_its_own(case: Rendered) -> None:
    """A kubelet may read each Secret that its pods refer to: capture's hold no other service's password and no server's key."""
    for component, spec in case.pods():
        if component != "capture":
            continue
        secrets = " ".join(name for kind, name in references(spec) if kind == "Secret")
        assert not any(other in secrets for other in ("enricher", "exporter", "reader", "operator", "system", "server"))


def test_probes_and_grace(case: Rendered) -> None:
    """Each service is probed where it answers, and is given longer to end than it takes to drain."""
    for component, spec in case.pods():
        if component not in SERVICES:
            continue
        (container,) = spec["containers"]
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        environment = {variable["name"]: variable.get("value") for variable in container["env"]}
        drain = float(environment[f"WIRESPAN_{component.upper()}_DRAIN_SECONDS"])
        assert spec["terminationGracePeriodSeconds"] >= drain + 5


@pytest.mark.parametrize("replicas", [1, 3])
def test_no_two_servers_are_on_one_host(helm_binary: Path, replicas: int) -> None:
    """With three servers, a host that is lost takes one of them. One alone goes wherever there is room."""
    (nats,) = [
        each
        for each in render(helm_binary, {"nats": {"replicas": replicas}}).objects
        if each["kind"] == "StatefulSet" and each["metadata"]["name"].endswith("nats")
    ]
    rules = nats["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
    terms = rules.get("requiredDuringSchedulingIgnoredDuringExecution", [])
    assert [term["topologyKey"] for term in terms] == ["kubernetes.io/hostname"] * (replicas > 1)
    assert nats["spec"]["template"]["spec"]["topologySpreadConstraints"][0]["topologyKey"] == "topology.kubernetes.io/zone"


def test_every_pod_has_a_network_policy(helm_binary: Path) -> None:
    """With all switched on, each kind of pod but that of `helm test` is selected by a policy for both directions."""
    rendered = render(helm_binary, MATRIX["everything on"])
    selected = {
        policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]: policy["spec"]["policyTypes"]
        for policy in rendered.of_kind("NetworkPolicy")
    }
    assert selected == {name: ["Ingress", "Egress"] for name in (*SERVICES, "nats", "toolbox", "view")}


def test_every_setting_arrives(helm_binary: Path) -> None:
    """A value for every setting of every `settings` map is a variable of the services that have it, and no other is there."""
    given_values: dict[str, Any] = {"nats": {"replicas": 1}, "settings": {}}
    for name, schema in settings_schemas().items():
        example = {field: an_example(shape) for field, shape in schema["properties"].items()}
        if name in _SERVICES:
            given_values[name] = {"settings": example}
        elif example:
            given_values["settings"][name] = example
    given_values["settings"]["streams"] |= {"replicas": 1, "raw_bytes": 1 << 21, "enriched_bytes": 1 << 21}
    rendered = render(helm_binary, given_values)
    for service, struct_type in _SERVICES.items():
        known = {variable.name for variable in describe(struct_type, f"WIRESPAN_{service.upper()}_")}
        given = {variable["name"] for variable in rendered.pod(service)["containers"][0]["env"]}
        assert {name for name in given if name.startswith("WIRESPAN_")} <= known
        reachable = {
            f"WIRESPAN_{group.upper()}_{name.upper()}"
            for group, schema in settings_schemas().items()
            for name in schema["properties"]
        }
        assert known & reachable <= given


def an_example(shape: dict[str, Any]) -> Any:
    """Something that a schema takes."""
    if "enum" in shape:
        return shape["enum"][0]
    if shape["type"] == "array":
        return [an_example(shape["items"])]
    if shape["type"] == "object":
        return {}
    least = shape.get("minimum", shape.get("exclusiveMinimum", 0) + 1)
    return {"string": "text", "boolean": True, "integer": int(least), "number": least}[shape["type"]]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_one_value(helm_binary: Path, preset: str) -> None:
    """exporter.preset reaches the exporter, and capture looks less often where flows are summed up; single settings win."""
    environment = _environment(render(helm_binary, {"exporter": {"preset": preset}}), "capture")
    assert environment.get("WIRESPAN_CAPTURE_DRAIN_INTERVAL_SECONDS") == (None if preset == "everything" else "10")
    own = {
        "exporter": {"preset": preset, "settings": {"attributes": "full"}},
        "capture": {"settings": {"drain_interval_seconds": 2}},
    }
    rendered = render(helm_binary, own)
    assert _environment(rendered, "exporter")["WIRESPAN_EXPORTER_PRESET"] == preset
    assert _environment(rendered, "exporter")["WIRESPAN_EXPORTER_ATTRIBUTES"] == "full"
    assert _environment(rendered, "capture")["WIRESPAN_CAPTURE_DRAIN_INTERVAL_SECONDS"] == "2"


@pytest.mark.parametrize(
    ("exporter", "said"),
    [
        ({}, "everything  6.6 GiB a node: every connection  <- chosen"),
        ({"preset": "map"}, "all summed up by workload pair  <- chosen"),
        ({"preset": "troubles", "settings": {"keep_ratio": 1}}, "keep_ratio=1 contradicts exporter.preset=troubles"),
        ({"settings": {"keep_ratio": 0.2}}, "keep_ratio=0.2 contradicts exporter.preset=everything"),
        ({"preset": "map", "settings": {"keep_troubles": True}}, "keep_troubles=true contradicts exporter.preset=map"),
    ],
)
def test_the_notes_say_what_is_sent(helm_binary: Path, tmp_path: Path, exporter: dict[str, Any], said: str) -> None:
    """`helm install` prints what each preset costs, which is chosen and what contradicts it; and nothing where nothing does."""
    shown = notes(helm_binary, tmp_path, {"exporter": exporter})
    assert said in shown
    assert ("contradicts" in shown) == ("contradicts" in said)


def _environment(rendered: Rendered, component: str) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in rendered.pod(component)["containers"][0]["env"]}


def test_numbers_stay_numbers(helm_binary: Path) -> None:
    """A large number is written out, a list is separated by commas: as the services read them."""
    rendered = render(helm_binary, MATRIX["everything on"])
    environment = {variable["name"]: variable.get("value") for variable in rendered.pod("capture")["containers"][0]["env"]}
    assert environment["WIRESPAN_STREAMS_RAW_BYTES"] == "2147483648"
    assert environment["WIRESPAN_CAPTURE_MAX_FLOWS"] == "1048576"
    assert environment["WIRESPAN_CAPTURE_DENY_PORTS"] == "22,10250"
    assert environment["WIRESPAN_CAPTURE_LOOPBACK"] == "true"
    assert environment["WIRESPAN_NATS_PUBLISH_TIMEOUT_SECONDS"] == "7.5"
    headers = rendered.data("Secret", f"{RELEASE}-wirespan-otlp")["headers"].decode()
    assert headers == "authorization=Basic%20a%20b%2Bc%3D,x-scope-orgid=shop"


def test_namespaces_limit_the_roles(helm_binary: Path) -> None:
    """With `rbac.namespaces` there is a Role in each, nothing cluster-wide but nodes, and the enricher is told."""
    rendered = render(helm_binary, MATRIX["some namespaces"])
    assert {role["metadata"]["namespace"] for role in rendered.of_kind("Role")} == {"shop", "billing"}
    (cluster,) = rendered.of_kind("ClusterRole")
    assert [rule["resources"] for rule in cluster["rules"]] == [["nodes"]]
    assert rendered.environment("enricher")["WIRESPAN_KUBE_NAMESPACES"] == "shop,billing"
    assert render(helm_binary, MATRIX["some namespaces, no nodes"]).of_kind("ClusterRole") == []


def test_rights_follow_what_is_asked_for(helm_binary: Path) -> None:
    """NetworkPolicies and namespaces may be read only where a setting asks for what is in them."""

    def resources(given: dict[str, Any]) -> set[str]:
        roles = render(helm_binary, given).of_kind("Role", "ClusterRole")
        return {resource for role in roles for rule in role["rules"] for resource in rule["resources"]}

    optional = {"networkpolicies", "namespaces"}
    assert not resources({}) & optional
    everything = {"network_policies": True, "namespace_annotations": ["owner"]}
    assert resources({"settings": {"kube": everything}}) >= optional
    assert resources({"settings": {"kube": everything}, "rbac": {"namespaces": ["shop"], "nodes": False}}) >= optional


def test_the_exporter_may_reach_every_backend(helm_binary: Path) -> None:
    """The exporter's policy opens the ports of the backend and of those that it fails over to."""
    rendered = render(helm_binary, MATRIX["everything on"])
    policy = rendered.one("NetworkPolicy", f"{RELEASE}-wirespan-exporter")
    opened = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert {443, 8443} <= opened


def test_metrics_of_flows_go_where_the_values_say(helm_binary: Path) -> None:
    """To the backend of spans, or to an endpoint of their own, which the exporter may reach; off, no variable is there."""
    variable = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
    assert variable not in render(helm_binary, {}).environment("exporter")
    sent = {"exporter": {"settings": {"flow_metrics": ["otlp"]}}, "otlp": {"endpoint": "http://collector:4317"}}
    assert render(helm_binary, sent).environment("exporter")[variable] == "http://collector:4317"
    sent["otlp"]["metricsEndpoint"] = "http://mimir:9317"
    rendered = render(helm_binary, sent | {"networkPolicy": {"enabled": True}})
    assert rendered.environment("exporter")[variable] == "http://mimir:9317"
    policy = rendered.one("NetworkPolicy", f"{RELEASE}-wirespan-exporter")
    assert {4317, 9317} <= {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}


@pytest.mark.parametrize("nodes", [10, 100, 1_000, 10_000])
def test_the_chart_takes_what_is_planned(helm_binary: Path, nodes: int) -> None:
    """The values of `wirespan plan` are values of the chart, and the streams fit the volume that they come with."""
    made = plan(Load(nodes=nodes, flows_per_node=50))
    rendered = render(helm_binary, values(made))
    environment = rendered.environment("exporter")
    assert environment["WIRESPAN_STREAMS_RAW_BYTES"] == str(made.raw_stream_bytes)
    assert rendered.one("StatefulSet", f"{RELEASE}-wirespan-nats")["spec"]["replicas"] == made.nats.replicas


REFUSED = {
    "a value that does not exist": ({"captur": {}}, "captur"),
    "a setting that does not exist": ({"capture": {"settings": {"linger": 1}}}, "linger"),
    "a setting out of range": ({"capture": {"settings": {"max_flows": 3}}}, "max_flows"),
    "a password among the settings": ({"settings": {"nats": {"password": "x"}}}, "password"),
    "two nodes of one subject": ({"nats": {"auth": {"nodes": ["a.b", "a-b"]}}}, "nats.auth.nodes"),
    "two servers": ({"nats": {"replicas": 2}}, "nats/replicas"),
    "a NATS of one's own beside the chart's": ({"nats": {"url": "nats://a"}}, "nats.enabled must be false"),
    "no NATS at all": ({"nats": {"enabled": False}}, "nats.url"),
    "credentials in the URL of NATS": ({"nats": {"enabled": False, "url": "nats://a:b@c"}}, "nats/url"),
    "a NATS of one's own, and nobody to be there": ({"nats": {"enabled": False, "url": "nats://a"}}, "existingSecret"),
    "tokens at the NATS of the chart": ({"nats": {"auth": {"method": "token"}}}, "nats.auth.method"),
    "streams larger than the volume": ({"nats": {"persistence": {"size": "1Gi"}}}, "nats.persistence.size"),
    "more copies than servers": ({"settings": {"streams": {"replicas": 3}}}, "streams.replicas"),
    "KEDA without an endpoint": (
        {
            "nats": {"enabled": False, "url": "nats://a", "auth": {"method": "none"}},
            "exporter": {"autoscaling": {"type": "keda"}},
        },
        "nats.monitoringEndpoint",
    ),
    "no backend": ({"otlp": {"endpoint": ""}}, "otlp.endpoint"),
    "a header's file without its key": ({"otlp": {"headerFiles": [{"name": "a", "secret": "b"}]}}, "key"),
    "a header's file out of its folder": (
        {"otlp": {"headerFiles": [{"name": "../a", "secret": "b", "key": "c"}]}},
        "otlp/headerFiles/0/name",
    ),
    "metrics over HTTP without an endpoint": (
        {
            "otlp": {"endpoint": "http://a/v1/traces", "protocol": "http/protobuf"},
            "exporter": {"settings": {"flow_metrics": ["otlp"]}},
        },
        "otlp.metricsEndpoint",
    ),
    "a protocol that is none": ({"otlp": {"protocol": "http/json"}}, "otlp/protocol"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_values_are_refused(helm_binary: Path, name: str) -> None:
    """Values that cannot work are refused before anything is installed, and the message names the value."""
    wrong, named = REFUSED[name]
    with pytest.raises(HelmError) as refused:
        render(helm_binary, wrong)
    assert named in str(refused.value)


def test_secrets_of_ones_own_leave_nothing_to_chance(helm_binary: Path) -> None:
    """With Secrets of one's own the chart renders the same every time, as those need who render without asking the cluster."""
    first, second = (render(helm_binary, MATRIX["secrets of one's own"]).objects for _ in range(2))
    assert first == second


async def test_the_pod_of_helm_test_tells_ready_from_not(helm_binary: Path) -> None:
    """What `helm test` runs passes where every service is ready, and else ends with 1 and names the check that fails."""
    (container,) = render(helm_binary, {}).pod("test")["containers"]
    script, *services = container["args"]
    assert len(services) == 3
    health = Health()
    (port,) = free_ports(1)
    script = script.replace(":9464/", f":{port}/").replace("+ 120", "+ 3")

    def ask() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *container["command"][1:], script, "127.0.0.1"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    async with serve(HealthSettings(port=port), health):
        assert (await asyncio.to_thread(ask)).returncode == 0
        health.check("backend", lambda: False)
        refused = await asyncio.to_thread(ask)
    assert refused.returncode == 1
    assert "does not pass: backend" in refused.stdout


def test_the_chart_can_be_packaged(helm_binary: Path, tmp_path: Path) -> None:
    """`helm package` gives an archive that renders the same kinds of objects, dashboards included."""
    helm(helm_binary, "package", CHART, "--destination", tmp_path)
    (archive,) = tmp_path.glob("wirespan-*.tgz")
    text = helm(
        helm_binary, "template", RELEASE, archive, "--kube-version", "1.32.0", values=merged(BACKEND, MATRIX["everything on"])
    )
    from_archive = [each for each in yaml.safe_load_all(text) if each]
    from_folder = render(helm_binary, MATRIX["everything on"]).objects
    assert sorted(each["kind"] for each in from_archive) == sorted(each["kind"] for each in from_folder)
