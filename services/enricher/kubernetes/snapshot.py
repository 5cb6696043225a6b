"""Reads a snapshot of a cluster: what `kubectl get pods,services,nodes,replicasets,deployments,endpointslices -A -o json`
prints.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from services.enricher.errors import SnapshotError
from services.enricher.kubernetes.object_meta import KubeObject
from services.enricher.kubernetes.objects import KINDS
from services.enricher.kubernetes.resources import ADDRESSED, RESOURCES
from services.enricher.kubernetes.selection import Selection

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_SEPARATOR: Final = re.compile(r"\s*(---\s*)*")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The objects of a snapshot that the index reads."""

    objects: tuple[KubeObject, ...]
    skipped: Mapping[str, int]
    """How many objects were not taken, by reason: `kind` (one that says nothing here), `name` (none), `malformed`."""

    @property
    def missing_kinds(self) -> list[str]:
        """The kinds that hold addresses, as every cluster has them, of which it has no object: they were left out."""
        return sorted({each.kind for each in RESOURCES if each.name in ADDRESSED} - {obj.kind for obj in self.objects})


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    """One object, or a list of them."""

    kind: str | None = None
    api_version: str | None = None
    items: list[msgspec.Raw] | None = None


_document_decoder: Final = msgspec.json.Decoder(_Document)
_array_decoder: Final = msgspec.json.Decoder(list[msgspec.Raw])
_object_decoders: Final[Mapping[tuple[str, str], msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(model) for kind, model in KINDS.items()
}


def read_snapshot(path: Path, selection: Selection | None = None) -> Snapshot:
    """Return the objects in a file of JSON: a List of any kinds, a PodList and its like, single objects, an array of objects,
    or several of these one after another (with or without `---` between them).

    Objects of unknown kinds, without a name or of a wrong shape are counted and left out. Raises SnapshotError where the
    file cannot be read, is no JSON, or holds nothing that has a kind.
    """
    try:
        content = path.read_bytes().removeprefix(_BYTE_ORDER_MARK)
    except OSError as error:
        raise SnapshotError(path, error.strerror or str(error)) from error
    selection = selection or Selection()
    objects: list[KubeObject] = []
    skipped: Counter[str] = Counter()
    try:
        for item, list_kind in _items(content):
            found = _decode(item, list_kind)
            if isinstance(found, str):
                skipped[found] += 1
            else:
                selection.trim(found)
                objects.append(found)
    except msgspec.DecodeError as error:
        raise SnapshotError(path, f"not what `kubectl get -o json` prints: {error}") from error
    return Snapshot(tuple(objects), dict(skipped))


def _items(content: bytes) -> Iterator[tuple[bytes, tuple[str, str] | None]]:
    """Yield each object's JSON, with the group and kind that its list gives it where it need not say so itself."""
    documents = list(_documents(content))
    if not documents:
        raise msgspec.DecodeError("the file is empty")
    for document in documents:
        if document.lstrip()[:1] == b"[":
            yield from ((bytes(item), None) for item in _array_decoder.decode(document))
            continue
        head = _document_decoder.decode(document)
        if not head.kind:
            raise msgspec.DecodeError("an object without `kind`")
        if head.items is None:
            yield document, None
            continue
        items_kind = (_group(head.api_version), head.kind.removesuffix("List"))
        yield from ((bytes(item), items_kind if items_kind in KINDS else None) for item in head.items)


def _documents(content: bytes) -> Iterator[bytes]:
    """Yield each JSON value of a file that may hold several."""
    content = content.strip().removeprefix(b"---").lstrip()
    if not content:
        return
    try:
        msgspec.json.decode(content, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        if "trailing characters" not in str(error):
            raise
    else:
        yield content
        return
    try:
        text = content.decode()
        scanner = json.JSONDecoder()
        end = 0
        while (start := _after_separator(text, end)) < len(text):
            _, end = scanner.raw_decode(text, start)
            yield text[start:end].encode()
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from error


def _after_separator(text: str, position: int) -> int:
    found = _SEPARATOR.match(text, position)
    return found.end() if found else position


def _group(api_version: str | None) -> str:
    group, slash, _ = (api_version or "").partition("/")
    return group if slash else ""


def _decode(item: bytes, list_kind: tuple[str, str] | None) -> KubeObject | str:
    """Return the object, or the reason why it is left out."""
    try:
        head = _document_decoder.decode(item)
        kind = (_group(head.api_version), head.kind) if head.kind else list_kind
        decoder = _object_decoders.get(kind) if kind else None
        if decoder is None:
            return "kind"
        decoded: KubeObject = decoder.decode(item)
    except msgspec.DecodeError:
        return "malformed"
    return decoded if decoded.metadata.name else "name"
