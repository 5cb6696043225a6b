"""What enrichers tell each other of the cluster: the messages of the stream KUBE_CACHE.

Its log is a chain of news, each message naming the one before it by its place and its content, with snapshots of all that they
came to in between. A reader begins at a snapshot, or at the chain's first message; a broken link means that the log was trimmed
before he had read it, or, where only the content is another, that a server which lost power went back in time and the log went
on from there: he begins anew. Beside the log stands the writer's last pulse. Messages are msgpack, deflated.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec

from services.enricher.errors import CacheMessageError
from services.enricher.index.claims import Claim
from services.enricher.index.cluster import Kept
from services.enricher.kubernetes.object_meta import KubeObject
from services.enricher.kubernetes.resources import ALL_RESOURCES

_Sized = TypeVar("_Sized")

_NOTHING: Final = msgspec.Raw(b"\xc0")
"""nil in the place of an object that is gone."""
CHUNK_BYTES: Final = 512 << 10
"""Bytes of objects in one message before they are deflated, to a fifth or less as a rule."""
_MOST_BYTES: Final = 64 << 20
_CLAIM_BYTES: Final = 256
"""What a claim takes at the most, as a rule."""


class ScopeState(msgspec.Struct, array_like=True, frozen=True):
    """How well the writer follows a resource, and where its watch goes on."""

    resource: str
    namespace: str
    state: str
    version: str
    listed: bool
    failing_since_unix_ns: int | None = None


class Pulse(msgspec.Struct, tag="pulse", frozen=True, kw_only=True):
    """That there is a writer, and how far he is."""

    log: str
    """Which log the message belongs to: a stream that is made anew gets another one."""
    writer: str
    reached_unix_ns: int
    """All news up to this time is in the log before this message."""
    complete_since_unix_ns: int
    """From when on every object with an address was seen."""
    selection: str
    """What the writer keeps of objects: one who keeps more cannot go on from his versions."""
    scopes: list[ScopeState]
    resigned: bool = False
    cluster: str = ""
    """Uid of the cluster that the log is about, empty where it is not known: the versions of one say nothing of another."""


class ObjectChange(msgspec.Struct, array_like=True, frozen=True):
    """An object by its key, as it is since a time, or nil where it is gone since then."""

    key: str
    observed_unix_ns: int
    obj: msgspec.Raw


class LogNews(msgspec.Struct, tag="news", frozen=True, kw_only=True):
    """Changes among the objects of a resource."""

    log: str
    before: int
    """Sequence of the log's message before this one, 0 where this is its first."""
    link: bytes = b""
    """`link_of` that message; empty in what earlier releases wrote."""
    resource: str
    namespace: str
    changes: list[ObjectChange]
    observed_unix_ns: int
    version: str = ""
    listed: bool = False


class KeptObject(msgspec.Struct, array_like=True, frozen=True):
    """An object in a snapshot."""

    resource: str
    starts_unix_ns: list[int]
    removed_unix_ns: int
    obj: msgspec.Raw


class SnapshotPart(msgspec.Struct, tag="part", frozen=True, kw_only=True):
    """A part of all that the log's messages up to here came to. The last part has the states of the resources."""

    log: str
    before: int
    snapshot: str
    link: bytes = b""
    number: int
    kept: list[KeptObject] = []
    ended: list[Claim] = []
    last: bool = False
    complete_since_unix_ns: int = 0
    selection: str = ""
    scopes: list[ScopeState] = []


CacheMessage = Pulse | LogNews | SnapshotPart

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(CacheMessage)
_resource_by_kind: Final = {resource.kind: resource.name for resource in ALL_RESOURCES}
_object_decoders: Final[dict[str, msgspec.msgpack.Decoder[KubeObject]]] = {
    resource.name: msgspec.msgpack.Decoder(resource.model) for resource in ALL_RESOURCES
}


def link_of(data: bytes) -> bytes:
    """Return what a message of the log is known by to the one behind it."""
    return hashlib.blake2b(data, digest_size=8).digest()


def encode(message: CacheMessage) -> bytes:
    """Return a message's bytes."""
    return zlib.compress(_encoder.encode(message), 1)


def decode(data: bytes) -> CacheMessage:
    """Return what a message says. Raises CacheMessageError."""
    try:
        inflating = zlib.decompressobj()
        plain = inflating.decompress(data, _MOST_BYTES)
        if not inflating.eof:
            raise CacheMessageError("longer than a message may be, or cut off")
        message: CacheMessage = _decoder.decode(plain)
    except (zlib.error, msgspec.DecodeError) as error:
        raise CacheMessageError(str(error)) from error
    return message


def decode_object(resource: str, raw: msgspec.Raw) -> KubeObject | None:
    """Return the object of a change; None for nil. Raises CacheMessageError for one of a wrong shape or an unknown resource."""
    if bytes(raw) == bytes(_NOTHING):
        return None
    decoder = _object_decoders.get(resource)
    try:
        if decoder is None:
            raise CacheMessageError(f"a resource that is not known: {resource}")
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise CacheMessageError(str(error)) from error


def key_of(kept: KeptObject) -> str:
    """Return the key of a snapshot's object, empty where it is not understood."""
    try:
        obj = decode_object(kept.resource, kept.obj)
    except CacheMessageError:
        return ""
    return obj.key if obj is not None else ""


def encode_object(obj: KubeObject | None) -> msgspec.Raw:
    """Return an object as a message has it."""
    return _NOTHING if obj is None else msgspec.Raw(_encoder.encode(obj))


def change_chunks(changes: Iterable[ObjectChange], most_bytes: int = CHUNK_BYTES) -> list[list[ObjectChange]]:
    """Return changes in as many pieces as they need; one, maybe empty, at the least."""
    return list(_chunks(((change, len(bytes(change.obj))) for change in changes), most_bytes)) or [[]]


def snapshot_parts(
    objects: Iterable[Kept], ended: Sequence[Claim], snapshot: str, most_bytes: int = CHUNK_BYTES
) -> list[SnapshotPart]:
    """Return a snapshot's parts, without their place in a log and without what only the last one has."""
    kept = (
        KeptObject(_resource_by_kind[obj.kind], starts, removed, encode_object(obj))
        for obj, starts, removed in objects
        if obj.kind in _resource_by_kind
    )
    chunks: list[tuple[list[KeptObject], list[Claim]]] = [
        (chunk, []) for chunk in _chunks(((each, len(bytes(each.obj))) for each in kept), most_bytes)
    ]
    step = max(1, most_bytes // _CLAIM_BYTES)
    chunks += [([], list(ended[start : start + step])) for start in range(0, len(ended), step)]
    return [
        SnapshotPart(log="", before=0, snapshot=snapshot, number=number, kept=chunk, ended=claims)
        for number, (chunk, claims) in enumerate(chunks or [([], [])])
    ]


def _chunks(sized: Iterable[tuple[_Sized, int]], most_bytes: int) -> Iterator[list[_Sized]]:
    chunk: list[_Sized] = []
    total = 0
    for item, size in sized:
        if chunk and total + size > most_bytes:
            yield chunk
            chunk, total = [], 0
        chunk.append(item)
        total += size
    if chunk:
        yield chunk
