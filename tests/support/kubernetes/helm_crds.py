"""Definitions of the kinds that the chart makes and Kubernetes itself does not know, with the fields that the chart uses.

Each field is one of the kind's published API and nothing else is taken, so that an API server that is asked to be strict finds
a field that is misspelt or in the wrong place.
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_NUMBER: Final[Schema] = {"type": "integer"}
_TEXTS: Final[Schema] = {"type": "object", "additionalProperties": _TEXT}
_ANY: Final[Schema] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _object(**fields: Schema) -> Schema:
    return {"type": "object", "properties": fields}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_RELABEL: Final = _list(_object(action=_TEXT, regex=_TEXT, sourceLabels=_list(_TEXT), targetLabel=_TEXT, replacement=_TEXT))
_ENDPOINTS: Final = _list(
    _object(port=_TEXT, path=_TEXT, interval=_TEXT, scrapeTimeout=_TEXT, relabelings=_RELABEL, metricRelabelings=_RELABEL)
)
_MONITOR: Final = {
    "jobLabel": _TEXT,
    "namespaceSelector": _object(matchNames=_list(_TEXT), any={"type": "boolean"}),
    "selector": _object(matchLabels=_TEXTS),
}

_KINDS: Final[dict[tuple[str, str, str, str], Schema]] = {
    ("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors"): _object(**_MONITOR, podMetricsEndpoints=_ENDPOINTS),
    ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"): _object(**_MONITOR, endpoints=_ENDPOINTS),
    ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"): _object(
        groups=_list(
            _object(
                name=_TEXT, rules=_list(_object(alert=_TEXT, expr=_TEXT, labels=_TEXTS, annotations=_TEXTS, **{"for": _TEXT}))
            )
        )
    ),
    ("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects"): _object(
        scaleTargetRef=_object(name=_TEXT, kind=_TEXT, apiVersion=_TEXT),
        minReplicaCount=_NUMBER,
        maxReplicaCount=_NUMBER,
        advanced=_object(horizontalPodAutoscalerConfig=_object(behavior=_ANY)),
        triggers=_list(_object(type=_TEXT, metadata=_TEXTS)),
    ),
    ("cert-manager.io", "v1", "Certificate", "certificates"): _object(
        secretName=_TEXT,
        commonName=_TEXT,
        dnsNames=_list(_TEXT),
        usages=_list(_TEXT),
        privateKey=_object(algorithm=_TEXT, size=_NUMBER, rotationPolicy=_TEXT),
        issuerRef=_object(name=_TEXT, kind=_TEXT, group=_TEXT),
    ),
}


def definitions() -> list[Schema]:
    """The CustomResourceDefinitions."""
    return [_definition(*names, spec) for names, spec in _KINDS.items()]


def examples() -> list[Schema]:
    """An object of each kind with nothing in it."""
    return [{"apiVersion": f"{group}/{version}", "kind": kind, "metadata": {"name": "x"}} for group, version, kind, _ in _KINDS]


def _definition(group: str, version: str, kind: str, plural: str, spec: Schema) -> Schema:
    names = {"kind": kind, "plural": plural, "singular": kind.lower()}
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [served]},
    }
