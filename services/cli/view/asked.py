"""What a request asks for: records in the tap's grammar, between two times."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping
from typing import Final

import click

from services.cli.tap.filter_options import FilterCommand, FilterOption, conditions
from services.cli.tap.filters import Condition, FlowFilter, between

_SEARCH: Final = FilterCommand("search", add_help_option=False)
_FILTERS: Final = frozenset(option.field for option in _SEARCH.params if isinstance(option, FilterOption))
_FLAGS: Final = frozenset(option.field for option in _SEARCH.params if isinstance(option, FilterOption) and option.is_flag)
_NOT: Final = "not"


class QuestionError(Exception):
    """A request that cannot be answered as it is; the message is for whoever asked."""


def wanted(query: Mapping[str, str]) -> FlowFilter:
    """Return the filter that `q`, `since` and `until` of a request are. Raises QuestionError."""
    return FlowFilter([*_conditions(query.get("q", "")), *between(time_of(query, "since"), time_of(query, "until"))])


def narrowed(text: str, by: str) -> str:
    """Return the search `text` together with the narrower search `by`, a list of names and values: what both find. Values of
    one filter are alternatives, so that those of `text` give way to those which `by` has. Raises QuestionError.
    """
    _conditions(text)
    narrow = shlex.split(by)
    kept: list[str] = []
    words, negated = iter(shlex.split(text)), False
    for word in words:
        name, has_value, _ = word.removeprefix("--").partition("=")
        given = [word] if has_value or name in {_NOT, *_FLAGS} else [word, *itertools.islice(words, 1)]
        if negated or name not in narrow[::2]:
            kept += given
        negated = name == _NOT
    return shlex.join([*kept, *narrow])


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
