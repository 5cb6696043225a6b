"""Errors of the runtime.

RuntimeFault
 ├── SettingsError            settings that no service can start with; one line per fault
 ├── TaskFailedError          a named task of a service ended with an error
 ├── Stopping                 the service was told to stop while it waited for something; a clean end
 └── BusError
      ├── DisconnectedError      there is no connection now; the bus is trying
      ├── RequestTimeoutError    the server did not answer in time; what became of the request is unknown
      ├── PermissionDeniedError  this user may not publish to that subject
      ├── PublishRefusedError    the message cannot be stored, now or later
      │    └── MessageTooLargeError    not as one message; in parts it can be
      ├── JournalMovedError      somebody else has written to the journal meanwhile
      ├── StreamFullError        the stream holds all it may; room comes when its messages are consumed
      └── ApiError               JetStream refused an administrative request
           ├── StreamConfigError    a stream exists and cannot be changed to what the settings ask for
           └── ConsumerConfigError  so does a consumer
"""

from __future__ import annotations

from collections.abc import Sequence


class RuntimeFault(Exception):  # noqa: N818 - the base of errors and of one clean end
    """Base of what this package raises."""


class SettingsError(RuntimeFault):
    """Settings that a service cannot start with."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)
        """One line each: the variable, its value (secrets masked), and what is wanted."""


class TaskFailedError(RuntimeFault):
    """A named task of a service ended with an error, which is chained."""


class Stopping(RuntimeFault):
    """The service was told to stop while it waited for something."""


class BusError(RuntimeFault):
    """Base of errors of the bus."""


class DisconnectedError(BusError):
    """There is no connection to the server now, or it was lost while an answer was awaited."""


class RequestTimeoutError(BusError):
    """The server did not answer in time: what became of the request is not known."""


class PermissionDeniedError(BusError):
    """The user this process connects as may not publish to the subject."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"no permission to publish to {subject!r}")
        self.subject = subject


class PublishRefusedError(BusError):
    """The message cannot be stored, now or later: sending it again would change nothing."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})" if code else description)
        self.code = code
        """JetStream's error code, or 0 where the server was not asked."""
        self.description = description


class MessageTooLargeError(PublishRefusedError):
    """The message is larger than the server or the stream takes. Nothing was sent."""

    def __init__(self, code: int, description: str, *, limit: int) -> None:
        super().__init__(code, description)
        self.limit = limit
        """Most bytes of payload that such a message may have."""


class JournalMovedError(BusError):
    """The journal does not end where its writer believed: another has written, or its stream was made anew."""


class StreamFullError(BusError):
    """The stream holds all it may. Room comes when its messages are consumed: the same message may be sent again then."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code
        self.description = description


class ApiError(BusError):
    """JetStream refused an administrative request."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code
        self.description = description


class StreamConfigError(ApiError):
    """A stream cannot be made what the settings ask for."""

    def __init__(self, stream: str, code: int, description: str) -> None:
        super().__init__(code, description)
        self.stream = stream

    def __str__(self) -> str:
        return f"stream {self.stream} cannot be made what the settings ask for: {self.description} ({self.code})"


class ConsumerConfigError(ApiError):
    """A consumer cannot be made what this service needs: somebody else made it."""

    def __init__(self, stream: str, durable: str, code: int, description: str) -> None:
        super().__init__(code, description)
        self.stream = stream
        self.durable = durable

    def __str__(self) -> str:
        return (
            f"consumer {self.durable} of stream {self.stream} is not as we make it, and cannot be changed: {self.description}"
            f" ({self.code}); deleted, it is made anew"
        )
