"""Names on the bus: streams, subjects, durable consumers and headers, and the size of a batch. Said here and nowhere else."""

from __future__ import annotations

import re
import zlib
from typing import Final

RAW_STREAM: Final = "FLOWS_RAW"
ENRICHED_STREAM: Final = "FLOWS_ENRICHED"
DEAD_STREAM: Final = "FLOWS_DEAD"
RECENT_STREAM: Final = "FLOWS_RECENT"
"""The latest enriched batches, for looking back: copies, which nobody consumes."""
CACHE_STREAM: Final = "KUBE_CACHE"

RAW_SUBJECTS: Final = "flows.raw.>"
RAW_SEEN_SUBJECTS: Final = "flows.seen.>"
"""What FLOWS_RAW has stored, said again by the server: who listens in another account does not hear the first."""
ENRICHED_SUBJECTS: Final = "flows.enriched.>"
DEAD_SUBJECTS: Final = "flows.dead.>"
RECENT_SUBJECTS: Final = "flows.recent.>"
CACHE_SUBJECTS: Final = "kube.cache.>"
CACHE_BELL_SUBJECTS: Final = "kube.bell.>"
"""Where the server says, without its content, that something of CACHE_SUBJECTS is stored."""
CACHE_LOG_SUBJECT: Final = "kube.cache.log"
"""News and snapshots of the cluster's objects, for all enrichers."""
CACHE_PULSE_SUBJECT: Final = "kube.cache.pulse"
"""Who writes the log, and how far it is; only the last of them is kept."""

ASKED_SUBJECTS: Final = "spans.asked.>"
"""Questions to the captures, which no stream stores: whom nobody hears, nobody could have answered."""

MAX_BATCH_BYTES: Final = 512 * 1024
"""What writers keep a message below: half of the payload limit a NATS server has by default."""

ENRICHER_DURABLE: Final = "enricher"
EXPORTER_DURABLE: Final = "exporter"

MESSAGE_ID_HEADER: Final = "Nats-Msg-Id"
"""JetStream drops a message whose id it has stored within the stream's duplicate window."""
REASON_HEADER: Final = "Wirespan-Reason"
"""Dead letters: why, one of a few constant words."""
DETAIL_HEADER: Final = "Wirespan-Detail"
"""Dead letters: what was wrong, in words, on one line."""
SUBJECT_HEADER: Final = "Wirespan-Subject"
"""Dead letters: the subject the message came from."""
RECORDS_HEADER: Final = "Wirespan-Records"
"""Dead letters: how many records are lost to the backend with this message; absent where that cannot be known."""
SPANS_HEADER: Final = "Wirespan-Spans"
"""Dead letters: how many spans those records are, where they are not as many: an exchange is several."""

_NOT_IN_TOKEN: Final = re.compile(r"[^A-Za-z0-9_=-]+")
_PARTITION: Final = re.compile(r"^flows\.\d+\.")


def subject_token(name: str) -> str:
    """Return `name` as one subject token: dots and every other character that NATS gives a meaning become a hyphen."""
    return _NOT_IN_TOKEN.sub("-", name) or "-"


def stream_prefix(subject: str) -> str:
    """Return what all subjects of one stream begin with, and those of no other: all tokens but the last."""
    return subject.rpartition(".")[0]


def partition_of(node: str, partitions: int) -> int:
    """Return which of the partitions of a stream has the node's batches: always the same one."""
    return zlib.crc32(subject_token(node).encode()) % partitions


def partition_stream(stream: str, partition: int) -> str:
    """Name of one partition of a stream. The first has the stream's own name, and is there always."""
    return f"{stream}_{partition}" if partition else stream


def partition_streams(stream: str, partitions: int) -> tuple[str, ...]:
    """Names of all partitions of a stream."""
    return tuple(partition_stream(stream, partition) for partition in range(partitions))


def partition_subject(subject: str, partition: int) -> str:
    """Return a subject, or a pattern of them, as it is in one partition: in the first as it is."""
    return subject.replace("flows.", f"flows.{partition}.", 1) if partition else subject


def without_partition(subject: str) -> str:
    """Return a subject as it is in the first partition, whichever it is of."""
    return _PARTITION.sub("flows.", subject)


def in_all_partitions(subjects: str) -> tuple[str, ...]:
    """Return the patterns under which somebody hears `subjects` of every partition, however many there are."""
    return subjects, subjects.replace("flows.", "flows.*.", 1)


def raw_subject(node: str, partitions: int = 1) -> str:
    """Subject of a node's raw batches."""
    return partition_subject(f"flows.raw.{subject_token(node)}", partition_of(node, partitions))


def enriched_subject(node: str, partitions: int = 1) -> str:
    """Subject of a node's enriched batches."""
    return partition_subject(f"flows.enriched.{subject_token(node)}", partition_of(node, partitions))


def asked_subject(node: str) -> str:
    """Subject of the questions to a node's capture."""
    return f"spans.asked.{subject_token(node)}"


def dead_subject(service: str) -> str:
    """Subject of what a service could not process."""
    return f"flows.dead.{subject_token(service)}"


def batch_id(node: str, epoch: str, sequence: int) -> str:
    """Message id of a raw batch."""
    return f"{subject_token(node)}/{epoch}/{sequence}"


def part_id(raw_id: str, first: int, end: int) -> str:
    """Message id of an enriched batch: that of its raw batch and the rows it holds.

    The rows are in it because a batch enriched again, with a fuller index, may be split elsewhere: then two messages overlap,
    which span ids make harmless, and none is dropped as the duplicate of a shorter one.
    """
    return f"{raw_id}/{first}-{end}"
