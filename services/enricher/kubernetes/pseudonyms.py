"""Other names and addresses in the place of a cluster's own: the same for the same, so what belongs together still does.

Uids, container ids, times, ports, tags and kinds stay. Addresses stay addresses of their family; the networks of nodes are
left out, for they would no longer hold them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final

from services.enricher.kubernetes.node_annotations import NODE_ANNOTATIONS, with_addresses
from services.enricher.kubernetes.object_meta import STATIC_POD_ANNOTATION, TEMPLATE_HASH_LABEL
from services.runtime.privacy.pseudonyms import KEPT_NAMES, digest, pseudonym

_NAMES: Final = frozenset(("name", "namespace", "nodeName"))
_LEFT_OUT: Final = frozenset(("podCIDR", "podCIDRs"))
_KEPT_LABELS: Final = frozenset((TEMPLATE_HASH_LABEL, "app.kubernetes.io/version", "service.kubernetes.io/headless"))


class Pseudonyms:
    """Pseudonyms made with a key: the same key gives the same ones."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._taken: set[str] = set()
        self.given: dict[str, str] = {}
        """Pseudonym by what it stands for."""

    def replaced(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return an object with pseudonyms in it."""
        template_hash = item["metadata"].get("labels", {}).get(TEMPLATE_HASH_LABEL, "")
        replaced: dict[str, Any] = self._tree(item, template_hash)
        return replaced

    def name(self, text: str, template_hash: str = "") -> str:
        """Return the pseudonym of a name. What a Deployment added to its own name, to name others, stays."""
        start, found, rest = text.partition(f"-{template_hash}") if template_hash else (text, "", "")
        return self._made(start, pseudonym(self._key, start)) + found + rest if start not in KEPT_NAMES else text

    def address(self, text: str) -> str:
        """Return the pseudonym of an address; what is none (`None`, a host's name) is taken for a name."""
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return text if text in ("", "None") else self.name(text)
        if text in self.given:
            return self.given[text]
        digest = self._digest(str(address))
        if address.version == 4:
            return self._made(text, self._free(ipaddress.IPv4Address(0x0A00_0000 | int.from_bytes(digest[:3]))))
        return self._made(text, str(ipaddress.IPv6Address(b"\xfd" + digest[:15])))

    def _free(self, wanted: ipaddress.IPv4Address) -> str:
        """Return the first address from `wanted` on that stands for no other: there are but 24 bits to choose from."""
        while str(wanted) in self._taken:
            wanted = ipaddress.IPv4Address(0x0A00_0000 | (int(wanted) + 1) & 0x00FF_FFFF)
        self._taken.add(str(wanted))
        return str(wanted)

    def _tree(self, tree: Any, template_hash: str, field: str = "") -> Any:
        if isinstance(tree, dict):
            if field in ("labels", "annotations", "matchLabels"):
                return {name: self._value(name, value, template_hash) for name, value in tree.items()}
            return {name: self._tree(value, template_hash, name) for name, value in tree.items() if name not in _LEFT_OUT}
        if isinstance(tree, (list, tuple)):
            return [self._tree(each, template_hash, field) for each in tree]
        return self._text(tree, template_hash, field) if isinstance(tree, str) else tree

    def _text(self, text: str, template_hash: str, field: str) -> str:
        if field in _NAMES or field == "values":  # those of a selector's labels
            return self.name(text, template_hash)
        if field in ("podIP", "ip", "clusterIP", "clusterIPs", "externalIPs", "addresses", "address"):
            return self.address(text)
        if field == "image":
            name, at, digest = text.partition("@")
            name, colon, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "")
            return self.name(name) + colon + tag + at + digest
        return text

    def _value(self, key: str, value: str, template_hash: str) -> str:
        if key in NODE_ANNOTATIONS:
            return with_addresses(value, self.address)
        return value if key in _KEPT_LABELS or key == STATIC_POD_ANNOTATION else self.name(value, template_hash)

    def _digest(self, text: str) -> bytes:
        return digest(self._key, text)

    def _made(self, text: str, pseudonym: str) -> str:
        return self.given.setdefault(text, pseudonym)
