"""Dead letters as they lie in FLOWS_DEAD: which of them are meant, where each belongs, and putting it back there."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from proto.subjects import (
    DEAD_STREAM,
    ENRICHED_SUBJECTS,
    MESSAGE_ID_HEADER,
    RAW_SUBJECTS,
    SUBJECT_HEADER,
    dead_subject,
    without_partition,
)
from services.cli.run.ledger import DeadLetter, read_dead_letter
from services.runtime.nats.bus import Bus, StoredMessage

_ORIGINS: Final = tuple(subjects.removesuffix(">") for subjects in (RAW_SUBJECTS, ENRICHED_SUBJECTS))
_REPLAYED: Final = re.compile(r"/replay-\d+")


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter."""

    message: StoredMessage
    said: DeadLetter

    @property
    def origin(self) -> str | None:
        """The subject it came from, in the partition that is always there; None where that is not one that a service reads."""
        subject = without_partition(self.message.headers.get(SUBJECT_HEADER, ""))
        return subject if subject.startswith(_ORIGINS) else None

    @property
    def replay_id(self) -> str:
        """The id to put it back under: the same however often that is tried, and not the one it was first published under,
        which the stream would drop as a duplicate.
        """
        own = self.message.headers.get(MESSAGE_ID_HEADER, "").removeprefix(f"dead/{self.said.service}/")
        return f"{_REPLAYED.sub('', own)}/replay-{int(self.message.stored.timestamp() * 1e6)}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters are meant; an empty field asks for nothing."""

    service: str = ""
    reasons: frozenset[str] = frozenset()
    detail: str = ""
    """Words that the detail has to hold, in any case of letters."""
    sequences: frozenset[int] = frozenset()

    def holds(self, letter: Letter) -> bool:
        """Whether a letter is meant, its service taken as given."""
        said = letter.said
        return (
            (not self.reasons or said.reason in self.reasons)
            and self.detail.casefold() in said.detail.casefold()
            and (not self.sequences or letter.message.sequence in self.sequences)
        )

    async def letters(self, bus: Bus) -> AsyncIterator[Letter]:
        """Yield those that are there now, oldest first."""
        pattern = dead_subject(self.service) if self.service else ">"
        async for message in bus.peek(DEAD_STREAM, pattern):
            letter = read(message)
            if self.holds(letter):
                yield letter


def read(message: StoredMessage) -> Letter:
    """Return the letter that a message of FLOWS_DEAD is."""
    return Letter(message, read_dead_letter(message.subject, message.headers, message.data))


async def replay(bus: Bus, letter: Letter, origin: str) -> None:
    """Put a letter back where it came from, and take it out of the dead letters once it is stored there.

    Done again after an end half-way, it is stored once all the same, for as long as the stream remembers message ids. Raises
    StreamFullError and PublishRefusedError; the letter stays where it is then.
    """
    await bus.publish(origin, letter.message.data, message_id=letter.replay_id)
    await bus.delete(DEAD_STREAM, letter.message.sequence)
