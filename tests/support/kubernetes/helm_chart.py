"""The chart as the real helm renders it, and what a kubelet makes of it: the environment and the files of a container."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.kubernetes.helm_values import CHART

NAMESPACE: Final = "flows"
RELEASE: Final = "demo"
BACKEND: Final[dict[str, Any]] = {"otlp": {"endpoint": "http://tempo.observability:4317"}}
Tree = dict[str, Any]

OWN_NATS: Final[Tree] = {"enabled": False, "url": "tls://nats.infra.svc:4222", "monitoringEndpoint": "nats.infra.svc:8222"}
_DIGEST: Final = "sha256:" + "0" * 64

MATRIX: Final[dict[str, Tree]] = {
    "defaults": {},
    "a NATS of one's own, users with passwords": {
        "nats": OWN_NATS | {"auth": {user: {"existingSecret": "bus"} for user in ("capture", "enricher", "exporter")}}
    },
    "a NATS of one's own, credentials files and mutual TLS": {
        "nats": OWN_NATS
        | {
            "domain": "hub",
            "tls": {"existingSecret": "bus-ca", "clientSecret": "bus-client", "first": True},
            "auth": {
                "method": "creds",
                "nodesSecret": "bus-nodes",
                **{user: {"existingSecret": f"bus-{user}"} for user in ("enricher", "exporter", "reader")},
            },
        },
        "toolbox": {"enabled": True},
        "view": {"enabled": True, "auth": {"existingSecret": "page", "existingSecretKey": "page-token"}},
    },
    "a NATS of one's own that asks nobody who he is": {
        "nats": OWN_NATS | {"url": "nats://a:4222,nats://b:4333", "auth": {"method": "none"}, "tls": {"enabled": False}}
    },
    "three servers": {"nats": {"replicas": 3}},
    "three servers without TLS or volumes": {
        "nats": {"replicas": 3, "tls": {"enabled": False}, "persistence": {"enabled": False}}
    },
    "a user for each node": {"nats": {"auth": {"nodes": ["node-a", "ip-10-0-0-7.eu-west-1.compute.internal"]}}},
    "secrets of one's own": {
        "nats": {
            "auth": {
                user: {"existingSecret": "bus"} for user in ("capture", "enricher", "exporter", "reader", "operator", "system")
            },
            "tls": {"existingSecret": "bus-tls"},
        },
        "otlp": {
            "existingSecret": "backend",
            "headerFiles": [
                {"name": "Authorization", "scheme": "Bearer", "secret": "backend-token", "key": "token"},
                {"name": "X-Scope-OrgID", "secret": "backend-token", "key": "tenant"},
            ],
            "tls": {"existingSecret": "backend-tls", "certKey": "tls.crt", "keyKey": "tls.key"},
        },
        "image": {"pullSecrets": [{"name": "registry"}]},
    },
    "cert-manager": {"nats": {"replicas": 3, "tls": {"issuerRef": {"name": "internal", "kind": "ClusterIssuer"}}}},
    "scaled on CPU": {"enricher": {"autoscaling": {"type": "cpu"}}, "exporter": {"autoscaling": {"type": "cpu"}}},
    "scaled on lag": {
        "enricher": {"autoscaling": {"type": "keda", "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}}}},
        "exporter": {"autoscaling": {"type": "keda"}},
        "networkPolicy": {"monitoringFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}]},
    },
    "spans are taken in": {
        "correlation": {
            "intake": {
                "enabled": True,
                "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}],
                "authorizationSecret": "intake",
                "tlsSecret": "intake-tls",
            }
        },
        "nats": {"auth": {"nodes": ["node-a"]}},
    },
    "some namespaces": {"rbac": {"namespaces": ["shop", "billing"]}},
    "some namespaces, no nodes": {"rbac": {"namespaces": ["shop"], "nodes": False}},
    "no roles, no policies, no accounts": {
        "rbac": {"create": False},
        "networkPolicy": {"enabled": False},
        **{
            component: {"serviceAccount": {"create": False, "name": "given"}, "podDisruptionBudget": {"enabled": False}}
            for component in ("enricher", "exporter", "nats")
        },
        "capture": {"serviceAccount": {"create": False, "name": "given"}},
        "tests": {"enabled": False},
    },
    "enrich and export only": {"capture": {"enabled": False}, "fullnameOverride": "hub"},
    "capture only": {
        "enricher": {"enabled": False},
        "exporter": {"enabled": False},
        "otlp": {"endpoint": ""},
        "nats": OWN_NATS | {"auth": {"capture": {"existingSecret": "bus"}}},
    },
    "everything on": {
        "cluster": {"name": "shop"},
        "commonLabels": {"team": "net"},
        "commonAnnotations": {"owner": "net"},
        "image": {"registry": "registry.example/wirespan", "tag": "1.2.3", "pullSecrets": [{"name": "registry"}]},
        "otlp": {
            "endpoint": "https://otlp.example.com",
            "protocol": "http/protobuf",
            "headers": {"authorization": "Basic a b+c=", "x-scope-orgid": "shop"},
        },
        "capture": {
            "sysAdmin": True,
            "priorityClass": {"create": True},
            "image": {"digest": _DIGEST},
            "seLinuxOptions": {"type": "spc_t"},
            "extraEnv": [{"name": "EXTRA", "value": "1"}],
            "settings": {
                "deny_ports": [22, 10250],
                "deny_networks": ["169.254.0.0/16"],
                "loopback": True,
                "max_flows": 1048576,
            },
        },
        "enricher": {"settings": {"external_networks": ["office=192.0.2.0/24"]}},
        "exporter": {"settings": {"failover_endpoints": ["https://second.example.com:8443"]}},
        "settings": {
            "streams": {"raw_bytes": 2147483648},
            "nats": {"publish_timeout_seconds": 7.5},
            "kube": {"network_policies": True, "namespace_labels": ["team"]},
        },
        "nats": {"replicas": 3, "extraConfig": "debug: false", "persistence": {"storageClassName": "fast"}},
        "toolbox": {"enabled": True, "user": "operator"},
        "view": {
            "enabled": True,
            "auth": {"method": "header", "header": "X-Forwarded-User"},
            "hosts": ["flows.example.com"],
        },
        "monitoring": {
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "scrapeTimeout": "10s"},
            "serviceMonitor": {"enabled": True, "relabelings": [{"action": "labeldrop", "regex": "pod"}]},
            "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        },
        "grafana": {"dashboards": {"enabled": True}},
        "networkPolicy": {
            "metricsFrom": [{"namespaceSelector": {}}],
            "viewFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}],
            "natsFrom": [{"podSelector": {"matchLabels": {"nats": "client"}}}],
            "otlp": {"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]},
            "kubeApi": {"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [6443]},
        },
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}, "data": {"release": "{{ .Release.Name }}"}}
        ],
    },
}
"""Values that the chart is rendered with, by what they are for. `otlp.endpoint` is added where it is missing."""


def merged(values: Tree, more: Tree) -> Tree:
    """Values as helm puts two files of them together."""
    both = dict(values)
    for name, value in more.items():
        below = both.get(name)
        both[name] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return both


class Rendered:
    """The objects of one rendering."""

    def __init__(self, objects: list[Tree]) -> None:
        self.objects = objects

    def of_kind(self, *kinds: str) -> list[Tree]:
        """All objects of these kinds."""
        return [each for each in self.objects if each["kind"] in kinds]

    def one(self, kind: str, name: str) -> Tree:
        """The object; there is one."""
        (found,) = [each for each in self.of_kind(kind) if each["metadata"]["name"] == name]
        return found

    def pods(self) -> Iterator[tuple[str, Tree]]:
        """Name of the component and pod spec of everything that becomes pods."""
        for each in self.of_kind("DaemonSet", "Deployment", "StatefulSet"):
            labels = each["spec"]["template"]["metadata"]["labels"]
            yield labels["app.kubernetes.io/component"], each["spec"]["template"]["spec"]
        for each in self.of_kind("Pod"):
            yield each["metadata"]["labels"]["app.kubernetes.io/component"], each["spec"]

    def pod(self, component: str) -> Tree:
        """The pod spec of a component."""
        return dict(self.pods())[component]

    def data(self, kind: str, name: str) -> dict[str, bytes]:
        """What a Secret or ConfigMap holds, decoded."""
        found = self.one(kind, name)
        plain = found.get("data", {}) if kind == "ConfigMap" else found.get("stringData", {})
        encoded = found.get("data", {}) if kind == "Secret" else {}
        return {key: text.encode() for key, text in plain.items()} | {
            key: base64.b64decode(text) for key, text in encoded.items()
        }

    def environment(self, component: str, **downward: str) -> dict[str, str]:
        """The variables of a component's container as the kubelet resolves them; `downward` holds fields of the pod."""
        made: dict[str, str] = {}
        for variable in self.pod(component)["containers"][0]["env"]:
            source = variable.get("valueFrom", {})
            if "secretKeyRef" in source:
                reference = source["secretKeyRef"]
                made[variable["name"]] = self.data("Secret", reference["name"])[reference["key"]].decode()
            elif "fieldRef" in source:
                made[variable["name"]] = downward[source["fieldRef"]["fieldPath"].rpartition(".")[2]]
            else:
                made[variable["name"]] = expanded(variable["value"], made)
        return made

    def write_files(self, component: str, folder: Path, **variables: str) -> dict[str, Path]:
        """Write what the mounted Secrets and ConfigMaps hold below `folder`; return path in the container -> file."""
        spec = self.pod(component)
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        written: dict[str, Path] = {}
        for mount in spec["containers"][0]["volumeMounts"]:
            for kind, source in sources(volumes.get(mount["name"], {})):
                data = self.data(kind, source.get("secretName") or source["name"])
                items = source.get("items") or [{"key": name, "path": name} for name in data]
                files = {item["path"]: data[item["key"]] for item in items}
                if "subPathExpr" in mount:
                    written[mount["mountPath"]] = folder / mount["name"]
                    written[mount["mountPath"]].write_bytes(files[expanded(mount["subPathExpr"], variables)])
                    continue
                for path, content in files.items():
                    target = folder / mount["name"] / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
                    written[f"{mount['mountPath']}/{path}"] = target
        return written


def sources(volume: Mapping[str, Any]) -> Iterator[tuple[str, Tree]]:
    """Yield kind and reference of each object that a volume's files come from."""
    for part in (volume, *volume.get("projected", {}).get("sources", ())):
        for field, kind in (("secret", "Secret"), ("configMap", "ConfigMap")):
            if field in part:
                yield kind, part[field]


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` as the kubelet expands it."""
    return re.sub(r"\$\(([A-Za-z_]\w*)\)", lambda found: variables.get(found[1], found[0]), text)


class HelmError(Exception):
    """helm refused; the message is what it said."""


def helm(binary: Path, *arguments: str | Path, values: Tree | None = None) -> str:
    """Run helm; return what it printed. Raises HelmError."""
    command = [binary, *arguments, *(["--values", "-"] if values is not None else [])]
    text = json.dumps(values) if values is not None else ""
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise HelmError(done.stderr + done.stdout)
    return done.stdout


def render(binary: Path, values: Tree, *options: str) -> Rendered:
    """Render the chart with these values, `otlp.endpoint` among them where they have none. Raises HelmError."""
    with_backend = merged(BACKEND, values)
    arguments = ("template", RELEASE, CHART, "--namespace", NAMESPACE, "--kube-version", "1.32.0", *options)
    text = helm(binary, *arguments, values=with_backend)
    return Rendered([each for each in yaml.safe_load_all(text) if each])


def notes(binary: Path, folder: Path, values: Tree) -> str:
    """What `helm install` would print with these values; `folder` is empty. Raises HelmError."""
    # helm shows notes only where it has a cluster, so they are rendered as an object of a copy of the chart.
    chart = Path(shutil.copytree(CHART, folder / "wirespan"))
    text = (chart / "templates" / "NOTES.txt").read_text()
    template = '{{ define "notes" }}' + text + '{{ end }}{kind: ConfigMap, text: {{ include "notes" . | quote }}}'
    (chart / "templates" / "notes.yaml").write_text(template)
    arguments = ("template", RELEASE, chart, "--show-only", "templates/notes.yaml")
    shown: str = yaml.safe_load(helm(binary, *arguments, values=merged(BACKEND, values)))["text"]
    return shown
