"""Pseudonyms made with a key: the same for the same wherever the key is, so that what belongs together still does."""

from __future__ import annotations

import hmac
from typing import Final

KEPT_NAMES: Final = frozenset(("default", "kubernetes"))
"""Which every cluster has."""

_KEPT_LABELS: Final = KEPT_NAMES | {"svc", "pod", "cluster", "local", "_tcp", "_udp"}
_REVERSE: Final = ("in-addr", "arpa"), ("ip6", "arpa")
_MOST_LABELS: Final = 12
"""What is longer is so in front: a search domain's are behind."""


def digest(key: bytes, text: str) -> bytes:
    """Return what a pseudonym is made of."""
    return hmac.digest(key, text.encode(), "sha256")


def pseudonym(key: bytes, name: str) -> str:
    """Return the pseudonym of the name of an object."""
    return name if name in KEPT_NAMES else f"n-{digest(key, name).hex()[:12]}"


def domain_pseudonym(key: bytes, domain: str) -> str:
    """Return the pseudonym of a domain name: of `cart.shop.svc.cluster.local` the Service's and the namespace's own.

    The last label of several stays, and what every cluster's names have. An address in a name (in-addr.arpa) is one label.
    """
    labels = domain.split(".")
    kept = 2 if tuple(labels[-2:]) in _REVERSE else min(len(labels) - 1, 1)
    front, back = labels[: len(labels) - kept], labels[len(labels) - kept :]
    together = len(front) - 1 if kept == 2 else max(len(front) - _MOST_LABELS, 0)
    if together:
        front = [".".join(front[: together + 1]), *front[together + 1 :]]
    return ".".join([*(label if label in _KEPT_LABELS else pseudonym(key, label) for label in front), *back])
