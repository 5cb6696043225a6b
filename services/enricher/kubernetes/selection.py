"""Which labels and annotations are kept of objects, and which of them entities show.

Those that mean something to the index are always kept, those that users choose are kept and shown; all others are let go as
soon as an object is decoded, for they are most of what there is.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from services.enricher.kubernetes.node_annotations import NODE_ANNOTATIONS
from services.enricher.kubernetes.object_meta import (
    HEADLESS_LABEL,
    RESOURCE_ANNOTATION_PREFIX,
    SERVICE_NAME_LABEL,
    STATIC_POD_ANNOTATION,
    TEMPLATE_HASH_LABEL,
    KubeObject,
)
from services.enricher.settings import KubeSettings

_KEPT_LABELS: Final = frozenset(
    (
        "app.kubernetes.io/instance",
        "app.kubernetes.io/name",
        "app.kubernetes.io/version",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "kubernetes.io/hostname",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        HEADLESS_LABEL,
        SERVICE_NAME_LABEL,
        TEMPLATE_HASH_LABEL,
    )
)
_KEPT_ANNOTATIONS: Final = NODE_ANNOTATIONS | {STATIC_POD_ANNOTATION}
ALWAYS_KEPT: Final = (*sorted(_KEPT_LABELS), *sorted(_KEPT_ANNOTATIONS), RESOURCE_ANNOTATION_PREFIX)
"""Labels and annotations that are kept whatever the settings say."""
_MOST_MAPPINGS: Final = 1 << 14
_mappings: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
_NOTHING: Final = re.compile(r"(?!)")
_EVERYTHING: Final = re.compile("")


class Selection:
    """What the settings choose."""

    def __init__(self, settings: KubeSettings | None = None) -> None:
        settings = settings or KubeSettings()
        self._labels = {
            "Pod": _pattern(settings.pod_labels),
            "Namespace": _pattern(settings.namespace_labels),
            "Node": _pattern(settings.node_labels),
        }
        self._annotations = {
            "Pod": _pattern(settings.pod_annotations),
            "Namespace": _pattern(settings.namespace_annotations),
            "Node": _pattern(settings.node_annotations),
        }
        # What a policy selects pods by may be any of their labels.
        self._kept_labels = self._labels | ({"Pod": _EVERYTHING} if settings.network_policies else {})

    def trim(self, obj: KubeObject) -> None:
        """Let go of an object's labels and annotations that nobody asks for."""
        metadata, kind = obj.metadata, obj.kind
        if metadata.labels:
            chosen = self._kept_labels.get(kind, _NOTHING)
            kept = {key: value for key, value in metadata.labels.items() if key in _KEPT_LABELS or chosen.match(key)}
            msgspec.structs.force_setattr(metadata, "labels", _shared(kept))
        if metadata.annotations:
            chosen = self._annotations.get(kind, _NOTHING)
            kept = {key: value for key, value in metadata.annotations.items() if _means_something(key) or chosen.match(key)}
            msgspec.structs.force_setattr(metadata, "annotations", _shared(kept))

    def attributes(self, obj: KubeObject | None) -> dict[str, str]:
        """Return the chosen labels and annotations of a pod, namespace or node as attributes."""
        if obj is None:
            return {}
        kind = obj.kind
        return {
            f"k8s.{kind.lower()}.{word}.{key}": value
            for word, chosen, held in (
                ("label", self._labels.get(kind, _NOTHING), obj.metadata.labels),
                ("annotation", self._annotations.get(kind, _NOTHING), obj.metadata.annotations),
            )
            for key, value in (held or {}).items()
            if chosen.match(key)
        }


def _pattern(keys: Sequence[str]) -> re.Pattern[str]:
    """Matches any of the keys; `*` in one stands for anything."""
    return re.compile("|".join(fnmatch.translate(key) for key in keys)) if keys else _NOTHING


def _means_something(annotation: str) -> bool:
    return annotation in _KEPT_ANNOTATIONS or annotation.startswith(RESOURCE_ANNOTATION_PREFIX)


def _shared(texts: dict[str, str]) -> dict[str, str] | None:
    """The texts as a mapping that all objects with the same ones have in common, as those of one workload do; None for none."""
    if not texts:
        return None
    if len(_mappings) >= _MOST_MAPPINGS:
        _mappings.clear()
    return _mappings.setdefault(tuple(texts.items()), texts)
