"""Which run a replay is: what its message ids, and so the stream's memory of them, hang on."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import uuid

from services.capture.errors import path_text
from services.capture.settings import CaptureSettings


def is_repeatable(settings: CaptureSettings) -> bool:
    """Return whether another start with these settings is the same run: a replay that ends, of which no other name is set."""
    return not settings.epoch and not settings.replay_loop


def replay_epoch(settings: CaptureSettings) -> str:
    """Return the epoch of a replay.

    A restarted container keeps its host name, a new one gets another: so a replay that was killed sends the same messages
    again, and one that is asked for anew is not taken for its repetition. What else decides on the messages is in it too. A
    loop sends every pass at the time of day, which no other start repeats.
    """
    if settings.epoch:
        return settings.epoch
    if not is_repeatable(settings):
        return uuid.uuid4().hex
    parts = [
        socket.gethostname(),
        settings.node_name,
        str(settings.flow_table),
        str(settings.datagrams),
        str(settings.replay_capacity),
        settings.names,
        str(settings.hidden_names),
        settings.replay_pseudonym_key,
        str(settings.questions),
    ]
    for path in (*settings.replay_files, *filter(None, [settings.replay_questions])):
        parts.append(path_text(path))
        with contextlib.suppress(OSError):  # that it is missing is said where it is read
            status = path.stat()
            parts.append(f"{status.st_size} {status.st_mtime_ns}")
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
