"""The values of the Helm chart as a JSON schema and as a table: made from values.yaml and from the settings of the services.

values.yaml says by its defaults what is a text, a number or a list, and `# --` before a key says what it means. What a default
cannot say is in `SHAPES`. The services' settings come from their types, so that a wrong one is refused at `helm install`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from services.capture.settings import CaptureSettings
from services.enricher.settings import EnricherSettings
from services.exporter.presets import PRESETS
from services.exporter.settings import ExporterSettings
from services.runtime.settings_loading import _fields as fields

ROOT: Final = Path(__file__).parents[3]
CHART: Final = ROOT / "deploy" / "helm" / "wirespan"
Schema = dict[str, Any]

SET_BY_THE_CHART: Final = {
    "nats": {
        "url": "nats.url",
        "user": "nats.auth.capture.user",
        "password": "nats.auth.capture.existingSecret",
        "token": "nats.auth.capture.existingSecret",
        "creds_file": "nats.auth.capture.existingSecret",
        "nkey_file": "nats.auth.capture.existingSecret",
        "tls_ca": "nats.tls.caConfigMap",
        "tls_cert": "nats.tls.clientSecret",
        "tls_key": "nats.tls.clientSecret",
        "tls_first": "nats.tls.first",
        "inbox_prefix": "nats.auth.method",
        "jetstream_domain": "nats.domain",
        "unsynced_seconds": "nats.syncInterval",
    },
    "health": {"host": "health.host", "port": "health.port"},
    "cluster": {"name": "cluster.name"},
    "kube": {"namespaces": "rbac.namespaces"},
    "capture": {"node": "capture.enabled", "cgroup_root": "capture.cgroupPath", "drain_seconds": "capture.drainSeconds"},
    "enricher": {
        "drain_seconds": "enricher.drainSeconds",
        "intake": "correlation.intake.enabled",
        "intake_host": "health.host",
        "intake_grpc_port": "correlation.intake.enabled",
        "intake_http_port": "correlation.intake.enabled",
        "intake_tls_cert": "correlation.intake.tlsSecret",
        "intake_tls_key": "correlation.intake.tlsSecret",
        "intake_authorization_file": "correlation.intake.authorizationSecret",
    },
    "exporter": {"drain_seconds": "exporter.drainSeconds", "preset": "exporter.preset"},
}
"""Settings, by group, that no `settings` map takes because a value of the chart decides them: which one."""

_SERVICES: Final[dict[str, type[msgspec.Struct]]] = {
    "capture": CaptureSettings,
    "enricher": EnricherSettings,
    "exporter": ExporterSettings,
}

_FREE: Final[Schema] = {"type": "object"}
_TEXTS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}
_OBJECTS: Final[Schema] = {"type": "array", "items": {"type": "object"}}
_NUMBER: Final[Schema] = {"type": "number", "minimum": 0}
_REPLICAS: Final[Schema] = {"type": "integer", "minimum": 0}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 1}
_PORT: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 65535}
_NAME: Final[Schema] = {"type": "string", "pattern": "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"}

SHAPES: Final[dict[str, Schema]] = {
    "commonLabels": _TEXTS,
    "commonAnnotations": _TEXTS,
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "image.pullSecrets": _OBJECTS,
    "*image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "otlp.endpoint": {"type": "string"},
    "otlp.protocol": {"enum": ["grpc", "http/protobuf"]},
    "otlp.compression": {"enum": ["gzip", "none"]},
    "otlp.timeoutMilliseconds": _COUNT,
    "otlp.headerFiles": {
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name", "secret", "key"],
            "properties": {
                "name": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]*$"},
                "scheme": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9-]*$"},
                "secret": _NAME,
                "key": {"type": "string", "pattern": "^[-._a-zA-Z0-9]+$"},
            },
        },
    },
    "otlp.headers": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
    "health.port": _PORT,
    "*.drainSeconds": _NUMBER,
    "*.resources": _FREE,
    "*.updateStrategy": _FREE,
    "*olerations": _OBJECTS,
    "*odeSelector": _TEXTS,
    "*.affinity": _FREE,
    "*ecurityContext": _FREE,
    "*.seLinuxOptions": _FREE,
    "*.annotations": _TEXTS,
    "*.labels": _TEXTS,
    "*.podAnnotations": _TEXTS,
    "*.podLabels": _TEXTS,
    "*.dnsPolicy": {"enum": ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]},
    "*.extra*": _OBJECTS,
    "*.topologySpreadConstraints": _OBJECTS,
    "*.replicas": _REPLICAS,
    "nats.replicas": {"type": "integer", "enum": [1, 3, 5]},
    "*.autoscaling.type": {"enum": ["none", "cpu", "keda"]},
    "*.autoscaling.minReplicas": _REPLICAS,
    "*.autoscaling.maxReplicas": _COUNT,
    "*.autoscaling.targetCPUUtilization": {"type": "integer", "minimum": 1, "maximum": 1000},
    "*.autoscaling.lagThreshold": _COUNT,
    "*.autoscaling.behavior": _FREE,
    "*.maxUnavailable": {"type": ["integer", "string"]},
    "rbac.namespaces": {"type": "array", "items": _NAME},
    "nats.url": {"type": "string", "pattern": "^([^@]*)$"},
    "nats.syncInterval": {"type": "string", "pattern": "^[1-9][0-9]{0,2}s$"},
    "nats.account": {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
    "nats.auth.method": {"enum": ["password", "token", "creds", "nkey", "none"]},
    "nats.auth.*.user": {"type": "string", "pattern": '^[^"\\\\]+$'},
    "nats.auth.*.password": {"type": "string", "pattern": '^[^"\\\\]*$'},
    "exporter.preset": {"enum": list(PRESETS)},
    "toolbox.user": {"enum": ["reader", "operator"]},
    "view.auth.method": {"enum": ["token", "header"]},
    "view.auth.existingSecretKey": {"type": "string", "pattern": "^[-._a-zA-Z0-9]+$"},
    "view.auth.header": {"type": "string", "pattern": "^[A-Za-z0-9-]*$"},
    "view.hosts": {"type": "array", "items": _NAME},
    "view.keep": {"type": "integer", "minimum": 1000},
    "nats.auth.nodes": {"type": "array", "items": _NAME, "uniqueItems": True},
    "nats.tls.issuerRef": _FREE,
    "nats.tls.validityDays": _COUNT,
    "nats.persistence.size": {"type": "string", "pattern": "^[0-9.]+(k|M|G|T|Ki|Mi|Gi|Ti)?$"},
    "nats.extraConfig": {"type": "string"},
    "correlation.intake.from": _OBJECTS,
    "networkPolicy.*From": _OBJECTS,
    "networkPolicy.*.to": _OBJECTS,
    "networkPolicy.*orts": {"type": "array", "items": _PORT},
    "monitoring.*elabelings": _OBJECTS,
}
"""What a default does not say, by path; the last pattern that fits counts."""


MEANINGS: Final = {
    "*.repository": "name of the image",
    "*.image.registry": "its registry, with a path if it has one",
    "*.image.tag": "its tag; that of `image.tag` where it is empty",
    "nats.image.tag": "its tag",
    "*.image.digest": "its digest, `sha256:...`; goes before the tag",
    "*.settings": "WIRESPAN_{COMPONENT}_*",
    "*.drainSeconds": "seconds to finish what is in flight when told to stop",
    "*.resources": "requests and limits",
    "*.updateStrategy": "how pods are replaced",
    "*.tolerations": "tolerations of the pods",
    "*.nodeSelector": "node selector of the pods",
    "*.affinity": "affinity of the pods; replicas prefer hosts of their own where it is empty",
    "capture.affinity": "affinity of the pods",
    "nats.affinity": "affinity of the pods; where it is empty, no two servers are on one host",
    "*.topologySpreadConstraints": "spread of the pods; over zones and hosts, where that can be, where it is empty",
    "*.priorityClassName": "priority class of the pods",
    "*.priorityClass.value": "its value",
    "*.securityContext": "instead of the container's security context; the whole of it",
    "*.podSecurityContext": "instead of the pod's security context; the whole of it",
    "*.seLinuxOptions": "SELinux options of the container",
    "*.serviceAccount.create": "make a service account",
    "*.serviceAccount.name": "its name",
    "*.serviceAccount.annotations": "its annotations",
    "*.podAnnotations": "annotations of the pods",
    "*.podLabels": "labels of the pods",
    "*.dnsPolicy": "DNS policy of the pods",
    "*.extraEnv": "more variables of the container",
    "*.extraEnvFrom": "more sources of variables",
    "*.extraVolumes": "more volumes of the pods",
    "*.extraVolumeMounts": "more mounts of the container",
    "*.replicas": "replicas, where nothing scales them",
    "*.autoscaling.type": "`none`, `cpu` (a HorizontalPodAutoscaler) or `keda` (a ScaledObject on the batches that wait)",
    "*.autoscaling.minReplicas": "least replicas",
    "*.autoscaling.maxReplicas": "most replicas",
    "*.autoscaling.targetCPUUtilization": "`cpu`: per cent of the request",
    "*.autoscaling.lagThreshold": "`keda`: waiting batches for each replica",
    "*.autoscaling.behavior": "how fast to scale, as HorizontalPodAutoscaler has it",
    "*.podDisruptionBudget.enabled": "make a PodDisruptionBudget",
    "*.podDisruptionBudget.maxUnavailable": "how many may be missing",
    "nats.auth.*.user": "name of this user",
    "nats.auth.*.password": "its password; made up by the chart where it is empty",
    "nats.auth.*.existingSecret": "Secret with its password, token, credentials or nkey, instead",
    "nats.auth.*.existingSecretKey": "the key in it; the method's name where it is empty",
    "nats.persistence.enabled": "keep the streams on a volume",
    "nats.persistence.size": "its size; nine tenths are the streams'",
    "nats.persistence.storageClassName": "its storage class; the cluster's default where it is empty",
    "nats.persistence.annotations": "its annotations",
    "monitoring.*.namespace": "namespace of the object; the release's where it is empty",
    "monitoring.*.labels": "labels by which Prometheus finds it",
    "monitoring.*.interval": "how often",
    "monitoring.*.scrapeTimeout": "how long that may take",
    "monitoring.*elabelings": "as in the object",
    "grafana.dashboards.namespace": "namespace of the ConfigMaps; the release's where it is empty",
    "grafana.dashboards.labels": "labels by which the sidecar finds them",
    "grafana.dashboards.annotations": "their annotations (`grafana_folder`)",
}
"""What values mean that stand in several places of values.yaml and are explained at none of them, by path."""


def settings_schemas() -> dict[str, Schema]:
    """What the `settings` maps take, by group and service, without what the chart decides."""
    groups: dict[str, Schema] = {}
    for service, struct_type in _SERVICES.items():
        for field in fields(struct_type):
            if field.group is None:
                groups.setdefault(service, {})[field.name] = _setting(field)
            else:
                groups.setdefault(field.name, {}).update({one.name: _setting(one) for one in fields(field.group)})
    return {
        name: {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                field: schema for field, schema in properties.items() if field not in SET_BY_THE_CHART.get(name, {})
            },
        }
        for name, properties in groups.items()
    }


def _setting(field: Any) -> Schema:
    schema = msgspec.json.schema(field.constrained, schema_hook=lambda _type: {"type": "string"})
    return {"description": field.description, **schema}


def schema_text() -> str:
    """values.schema.json."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    meanings = {path: meaning for path, _, meaning in described()}
    settings = settings_schemas()
    schema: Schema = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the chart of Wirespan"}
    schema |= _object(values, "", meanings, settings)
    schema["properties"]["global"] = {"type": "object"}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _object(values: Mapping[str, Any], path: str, meanings: Mapping[str, str], settings: Mapping[str, Schema]) -> Schema:
    properties: Schema = {}
    for name, default in values.items():
        below = f"{path}.{name}" if path else name
        properties[name] = _value(below, default, meanings, settings)
        if below in meanings and "description" not in properties[name]:
            properties[name] = {"description": meanings[below], **properties[name]}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _value(path: str, default: Any, meanings: Mapping[str, str], settings: Mapping[str, Schema]) -> Schema:
    where, _, last = path.rpartition(".")
    if last == "settings" and where in settings:
        return settings[where]
    if where == "settings":
        return settings[last]
    fitting = [shape for pattern, shape in SHAPES.items() if fnmatchcase(path, pattern)]
    if fitting:
        return fitting[-1]
    if isinstance(default, dict):
        return _object(default, path, meanings, settings)
    if isinstance(default, list):
        return {"type": "array"}
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return {"type": kinds[type(default)]}


def described() -> Iterator[tuple[str, str, str]]:
    """Yield path, default as JSON and meaning of every value, in the order of values.yaml."""
    text = (CHART / "values.yaml").read_text()
    explained = dict(_explained(text))
    for path, default in _leaves(yaml.safe_load(text), "", explained):
        fitting = [meaning for pattern, meaning in MEANINGS.items() if fnmatchcase(path, pattern)]
        meaning = explained.get(path) or (fitting[-1] if fitting else "")
        component = path.partition(".")[0].upper()
        yield path, json.dumps(default, ensure_ascii=False), meaning.replace("{COMPONENT}", component)


def _explained(text: str) -> Iterator[tuple[str, str]]:
    """Yield path and meaning of every key that a comment with `--` stands before."""
    stack: list[tuple[int, str]] = []
    meaning: list[str] = []
    for line in text.splitlines():
        comment = re.match(r"\s*# (-- )?(.*)", line)
        if comment:
            meaning = [comment[2]] if comment[1] else [*meaning, comment[2]] if meaning else []
            continue
        key = re.match(r"( *)([A-Za-z0-9_]+):", line)
        if key:
            stack = [entry for entry in stack if entry[0] < len(key[1])] + [(len(key[1]), key[2])]
            if meaning:
                yield ".".join(name for _, name in stack), " ".join(meaning)
        meaning = []


def _leaves(values: Mapping[str, Any], path: str, explained: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield path and default of every value that is set as a whole."""
    for name, default in values.items():
        below = f"{path}.{name}" if path else name
        whole = below in explained or any(fnmatchcase(below, pattern) for pattern in (*SHAPES, "*.settings"))
        if isinstance(default, dict) and default and not (whole and not _is_group(below)):
            yield from _leaves(default, below, explained)
        else:
            yield below, default


def _is_group(path: str) -> bool:
    """Whether a value with a comment is one of those that only hold others."""
    return path.startswith("nats.auth.")


def values_table() -> str:
    """The values as a Markdown table."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for path, default, meaning in described():
        lines.append(f"| `{path}` | `{default}` | {meaning} |")
    return "\n".join(lines)
