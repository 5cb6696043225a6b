"""What DNS calls its numbers (IANA, "Domain Name System (DNS) Parameters"): the ones that are met, the others by number."""

from __future__ import annotations

from typing import Final

RESPONSE_CODES: Final = {
    0: "NOERROR",
    1: "FORMERR",
    2: "SERVFAIL",
    3: "NXDOMAIN",
    4: "NOTIMP",
    5: "REFUSED",
    6: "YXDOMAIN",
    7: "YXRRSET",
    8: "NXRRSET",
    9: "NOTAUTH",
    10: "NOTZONE",
    16: "BADVERS",
    23: "BADCOOKIE",
}
RECORD_TYPES: Final = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    12: "PTR",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    33: "SRV",
    35: "NAPTR",
    39: "DNAME",
    43: "DS",
    46: "RRSIG",
    48: "DNSKEY",
    52: "TLSA",
    64: "SVCB",
    65: "HTTPS",
    252: "AXFR",
    255: "ANY",
    257: "CAA",
}


SERVER_FAILURE: Final = 2
"""The response code SERVFAIL."""

_CODE_NUMBERS: Final = {name: number for number, name in RESPONSE_CODES.items()}
_TYPE_NUMBERS: Final = {name: number for number, name in RECORD_TYPES.items()}


def response_code(number: int) -> str:
    """Return a response code's name, such as `NXDOMAIN`."""
    return RESPONSE_CODES.get(number, f"RCODE{number}")


def record_type(number: int) -> str:
    """Return a record type's name, such as `AAAA`; `TYPE<n>` for others (RFC 3597)."""
    return RECORD_TYPES.get(number, f"TYPE{number}")


def response_code_number(name: str) -> int:
    """Return the number of what `response_code` gave. Raises ValueError for anything else."""
    return _CODE_NUMBERS[name] if name in _CODE_NUMBERS else int(name.removeprefix("RCODE"))


def record_type_number(name: str) -> int:
    """Return the number of what `record_type` gave. Raises ValueError for anything else."""
    return _TYPE_NUMBERS[name] if name in _TYPE_NUMBERS else int(name.removeprefix("TYPE"))
