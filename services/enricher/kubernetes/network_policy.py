"""NetworkPolicies, as far as they are read: which pods they are about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from services.enricher.kubernetes.object_meta import KubeObject


class LabelRequirement(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a selector asks of one label. `operator` is In, NotIn, Exists or DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] | None = None

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Return whether labels are as it asks; an unknown operator asks for what nothing has."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in (self.values or ())
            case "NotIn":
                return value not in (self.values or ())
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
        return False


class LabelSelector(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """What selects objects by their labels; an empty one selects all."""

    match_labels: dict[str, str] | None = None
    match_expressions: tuple[LabelRequirement, ...] | None = None

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Return whether labels are as it asks."""
        same = all(labels.get(key) == value for key, value in (self.match_labels or {}).items())
        return same and all(each.holds(labels) for each in self.match_expressions or ())


class NetworkPolicySpec(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """Whom a policy is about. What it allows them is not read."""

    pod_selector: LabelSelector = LabelSelector()
    policy_types: tuple[str, ...] | None = None


class NetworkPolicy(KubeObject, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """A rule about the traffic of the pods that it selects in its namespace."""

    kind: ClassVar[str] = "NetworkPolicy"
    spec: NetworkPolicySpec = NetworkPolicySpec()

    def about(self, direction: str) -> bool:
        """Return whether it is about `Ingress` or `Egress`."""
        return direction in (self.spec.policy_types or ("Ingress",))
