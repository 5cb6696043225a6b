"""The keys of QUIC's Initial packets, which follow from what those say themselves (RFC 9001 5.2, RFC 9369 3.3): all have them.

AES comes from libcrypto, which Python's own `ssl` and `hashlib` stand on: it costs a node no memory that it does not use, where
a package of its own (`cryptography`) is 8 MiB. Where Python has its OpenSSL built in and the system has none, these packets
are not read.
"""

from __future__ import annotations

import ctypes
import functools
import hmac
from typing import Final, NamedTuple

VERSIONS: Final = {1: 1, 0x6B3343CF: 2}
"""QUIC's versions as the wire has them, and what they are called."""

_SALTS: Final = {
    1: bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"),
    2: bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"),
}
_LABELS: Final = {1: "quic", 2: "quicv2"}
_KEY_BYTES, _NONCE_BYTES, _SECRET_BYTES, TAG_BYTES = 16, 12, 32, 16
SAMPLE_BYTES: Final = 16
_SET_TAG: Final = 0x11
"""EVP_CTRL_AEAD_SET_TAG."""
_LIBRARIES: Final = ("libcrypto.so.3", "libcrypto.so.1.1")


@functools.cache
def _library() -> ctypes.CDLL | None:
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        for function in ("EVP_CIPHER_CTX_new", "EVP_aes_128_ecb", "EVP_aes_128_gcm"):
            getattr(library, function).restype = ctypes.c_void_p
        library.EVP_CIPHER_CTX_free.argtypes = (ctypes.c_void_p,)
        return library
    return None


def has_keys() -> bool:
    """Return whether there is a library for it."""
    return _library() is not None


class InitialKeys(NamedTuple):
    """What one end protects its Initial packets with."""

    key: bytes
    nonce: bytes
    header: bytes

    def mask(self, sample: bytes) -> bytes:
        """Return what a packet's header is hidden by (RFC 9001 5.4.3)."""
        return _encrypted(sample, self.header)

    def open(self, number: int, header: bytes, sealed: bytes) -> bytes | None:
        """Return what a packet holds; None where it was not sealed by this key."""
        nonce = (int.from_bytes(self.nonce) ^ number).to_bytes(_NONCE_BYTES)
        return _opened(self.key, nonce, header, sealed)


def initial_keys(version: int, connection: bytes, *, of_server: bool) -> InitialKeys:
    """Return an end's keys. `connection` is the id that the client's first packet was sent to."""
    secret = hmac.digest(_SALTS[version], connection, "sha256")
    secret = _expand(secret, "server in" if of_server else "client in", _SECRET_BYTES)
    label = _LABELS[version]
    return InitialKeys(
        _expand(secret, f"{label} key", _KEY_BYTES),
        _expand(secret, f"{label} iv", _NONCE_BYTES),
        _expand(secret, f"{label} hp", _KEY_BYTES),
    )


def _expand(secret: bytes, label: str, size: int) -> bytes:
    """HKDF-Expand-Label without a context (RFC 8446 7.1), of one block at the most."""
    name = f"tls13 {label}".encode()
    return hmac.digest(secret, size.to_bytes(2) + bytes((len(name),)) + name + b"\0\1", "sha256")[:size]


class _Context:
    """One use of EVP_CIPHER."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.pointer = ctypes.c_void_p(library.EVP_CIPHER_CTX_new())

    def __enter__(self) -> ctypes.c_void_p:
        return self.pointer

    def __exit__(self, *_exc_info: object) -> None:
        self._library.EVP_CIPHER_CTX_free(self.pointer)


def _encrypted(block: bytes, key: bytes) -> bytes:
    """Return one block, encrypted."""
    library = _library()
    if library is None:
        return bytes(SAMPLE_BYTES)
    out, written = ctypes.create_string_buffer(2 * SAMPLE_BYTES), ctypes.c_int()
    with _Context(library) as context:
        library.EVP_EncryptInit_ex(context, ctypes.c_void_p(library.EVP_aes_128_ecb()), None, key, None)
        library.EVP_EncryptUpdate(context, out, ctypes.byref(written), block, len(block))
    return out.raw[:SAMPLE_BYTES]


def _opened(key: bytes, nonce: bytes, header: bytes, sealed: bytes) -> bytes | None:
    library = _library()
    if library is None or len(sealed) < TAG_BYTES:
        return None
    content, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
    out, written = ctypes.create_string_buffer(len(sealed)), ctypes.c_int()
    with _Context(library) as context:
        library.EVP_DecryptInit_ex(context, ctypes.c_void_p(library.EVP_aes_128_gcm()), None, key, nonce)
        library.EVP_CIPHER_CTX_ctrl(context, _SET_TAG, TAG_BYTES, tag)
        library.EVP_DecryptUpdate(context, None, ctypes.byref(written), header, len(header))
        library.EVP_DecryptUpdate(context, out, ctypes.byref(written), content, len(content))
        is_whole = library.EVP_DecryptFinal_ex(
            context, ctypes.byref(ctypes.create_string_buffer(TAG_BYTES)), ctypes.byref(written)
        )
    return out.raw[: len(content)] if is_whole == 1 else None
