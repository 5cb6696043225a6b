"""An operator, an account and users of NATS as JWTs, for servers that let in whoever has credentials in a file."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys

_ALL = -1


class Account:
    """An account with JetStream and no limits, and what a server needs to know of it."""

    def __init__(self) -> None:
        kinds = (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_ACCOUNT)
        self._operator, self._system, self._account = (_new_key(kind) for kind in kinds)
        self._users = 0

    def server_config(self, store: Path) -> str:
        """The whole configuration of a server, for `NatsServer`."""
        operator = _jwt(self._operator, self._operator, "operator", "operator", {})
        limits = dict.fromkeys(("subs", "conn", "leaf", "imports", "exports", "data", "payload"), _ALL) | {"wildcards": True}
        storage = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), _ALL)
        nothing = {"default_permissions": {"pub": {}, "sub": {}}}
        account = _jwt(self._operator, self._account, "flows", "account", {"limits": limits | storage, **nothing})
        system = _jwt(self._operator, self._system, "system", "account", {"limits": limits, **nothing})
        return (
            f'listen: "127.0.0.1:@PORT@"\njetstream {{ store_dir: "{store}" }}\noperator: {operator}\n'
            f"system_account: {_public(self._system)}\nresolver: MEMORY\n"
            f"resolver_preload: {{ {_public(self._account)}: {account}\n {_public(self._system)}: {system} }}\n"
        )

    def credentials(self, *, seconds: float = 3600) -> str:
        """A credentials file's content for a new user, whose JWT expires after so long."""
        user = _new_key(nkeys.PREFIX_BYTE_USER)
        self._users += 1
        limits = dict.fromkeys(("subs", "data", "payload"), _ALL) | {"pub": {}, "sub": {}}
        token = _jwt(self._account, user, f"user-{self._users}", "user", limits, expires=int(time.time() + seconds))
        return (
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.decode()}\n------END USER NKEY SEED------\n"
        )


def _new_key(prefix: int) -> bytes:
    """A seed."""
    seed: bytes = nkeys.encode_seed(os.urandom(32), prefix)
    return seed


def _public(seed: bytes) -> str:
    return bytes(nkeys.from_seed(bytearray(seed)).public_key).decode()


def _jwt(issuer: bytes, subject: bytes, name: str, kind: str, claims: dict[str, Any], *, expires: int = 0) -> str:
    body = {"jti": os.urandom(8).hex(), "iat": int(time.time()), "iss": _public(issuer), "sub": _public(subject), "name": name}
    body |= {"exp": expires} if expires else {}
    body["nats"] = {**claims, "type": kind, "version": 2}
    signed = f"{_encoded({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_encoded(body)}"
    signature = nkeys.from_seed(bytearray(issuer)).sign(signed.encode())
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _encoded(tree: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(tree).encode()).rstrip(b"=").decode()
