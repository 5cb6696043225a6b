"""What a request asks for: records in the tap's grammar, between two times."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Final

import click

from services.cli.tap.filter_options import FilterCommand, FilterOption, conditions
from services.cli.tap.filters import Condition, FlowFilter, between

_SEARCH: Final = FilterCommand("search", add_help_option=False)
_FILTERS: Final = frozenset(option.field for option in _SEARCH.params if isinstance(option, FilterOption))
_NOT: Final = "not"


class QuestionError(Exception):
    """A request that cannot be answered as it is; the message is for whoever asked."""


def wanted(query: Mapping[str, str]) -> FlowFilter:
    """Return the filter that `q`, `since` and `until` of a request are. Raises QuestionError."""
    return FlowFilter([*_conditions(query.get("q", "")), *between(time_of(query, "since"), time_of(query, "until"))])


def time_of(query: Mapping[str, str], name: str) -> int | None:
    """Return a time in Unix nanoseconds; None where the request has none. Raises QuestionError."""
    text = query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise QuestionError(f"{name}: {text!r} is no time in Unix nanoseconds")
    return int(text)


def words() -> list[str]:
    """Return the filters that a search knows, for those who write one."""
    return sorted(option.field for option in _SEARCH.params if isinstance(option, FilterOption) and not option.negated)


def _conditions(text: str) -> list[Condition]:
    try:
        given = [*map(_as_option, shlex.split(text))]
        context = _SEARCH.make_context("search", given)
        return [*conditions(context, enriched=True)]
    except ValueError as error:
        raise QuestionError(f"{error}") from error
    except click.UsageError as error:
        raise QuestionError(error.format_message()) from error


def _as_option(word: str) -> str:
    """In a search box nobody needs the dashes: `to-service redis not port 53`."""
    name = word.partition("=")[0]
    return f"--{word}" if name in _FILTERS or name == _NOT else word
