"""What this user may do on the bus, as the server says."""

from __future__ import annotations

from typing import Final

import msgspec

from services.runtime.errors import BusError
from services.runtime.nats.connection import Connection

_USER_INFO: Final = "$SYS.REQ.USER.INFO"
_USER_INFO_SECONDS: Final = 2.0
_EVERY_SUBJECT: Final = frozenset({">", "*.>"})
_ASKS_OF_ANY_STREAM: Final = ("API.STREAM.INFO.*", "API.STREAM.>", "API.>", "$JS.>")
"""What others end with under which one may ask after every stream: an account may have JetStream's API under another name."""


class _Subjects(msgspec.Struct):
    allow: list[str] = msgspec.field(default_factory=list)


class _Permissions(msgspec.Struct):
    publish: _Subjects = msgspec.field(default_factory=_Subjects)


class _User(msgspec.Struct):
    permissions: _Permissions = msgspec.field(default_factory=_Permissions)


class _UserInfo(msgspec.Struct):
    """As a server answers who one is, as far as that is looked at."""

    data: _User = msgspec.field(default_factory=_User)


async def may_publish(connection: Connection) -> tuple[str, ...]:
    """Return where this user may publish, as the server says; empty where it names no subjects, or may not be asked."""
    try:
        answer = await connection.request(_USER_INFO, timeout_seconds=_USER_INFO_SECONDS)
        said = msgspec.json.decode(answer.data, type=_UserInfo)
    except (BusError, msgspec.DecodeError):
        return ()
    return tuple(said.data.permissions.publish.allow)


def asks_of_any_stream(subject: str) -> bool:
    """Whether who may publish there may ask after every stream."""
    return subject in _EVERY_SUBJECT or subject.endswith(_ASKS_OF_ANY_STREAM)
