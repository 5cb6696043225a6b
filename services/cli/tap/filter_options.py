"""The filters as options: each with its `--not`, those of an end also as `--from-...` and `--to-...`.

Values of the same option are alternatives; different options must all hold; `--not` turns the filter after it into something
that is left out. That is the grammar of `hubble observe`, which people know.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from services.cli.tap.filters import Condition, RecordTest, Where


@dataclass(frozen=True, slots=True)
class _Filter:
    name: str
    metavar: str
    help: str
    test: str
    """What makes a test of the text that it takes; of a flag, which has no metavar and takes none, the test itself. As
    `module:name` of this package, imported where the filter is used: arrays take long to load."""
    of_end: bool = True
    enriched_only: bool = False


_FILTERS: Final = (
    _Filter("pod", "[NS/]PREFIX", "a pod whose name begins so; `NS/` stands for all of a namespace", "filters:pod",
            enriched_only=True),
    _Filter("namespace", "NAME", "in this namespace", "filters:namespace", enriched_only=True),
    _Filter("service", "[NS/]NAME", "this Service, or has this `service.name`", "filters:service", enriched_only=True),
    _Filter("workload", "[NS/]NAME", "the deployment, stateful set, node, systemd unit ... of that name", "filters:workload",
            enriched_only=True),
    _Filter("ip", "ADDRESS|CIDR", "this address, or in this network", "filters:address"),
    _Filter("port", "PORT[-PORT]", "at this port, or one of this range", "filters:port"),
    _Filter("protocol", "NAME|NUMBER", "the transport: tcp, udp, icmp, icmpv6, sctp ...", "filters:protocol", of_end=False),
    _Filter("failed", "", "refused (datagrams too), unreachable, timeout, a reset that cut something short, a question of "
            "DNS or a ping without an answer",
            "filters:failed", of_end=False),
    _Filter("unanswered", "", "a connection attempt, a request or a question that never had an answer", "filters:unanswered",
            of_end=False),
    _Filter("slower-than", "DURATION", "connecting or a response took at least this: 250us, 100ms, 1.5s", "filters:slower_than",
            of_end=False),
    _Filter("outcome", "NAME", "established, closed, half_open, refused, timeout, reset; of questions unanswered or waiting; "
            "failed is what --failed is", "filters:outcome", of_end=False),
    _Filter("verdict", "NAME", "what was wrong: server_slow, path_loss, accept_queue ...; `ok`, `unknown`", "filters:verdict",
            of_end=False, enriched_only=True),
    _Filter("seen-by", "WHO", "whose socket saw it: client, server or unknown; `capture` is a capture file", "filters:observer",
            of_end=False),
    _Filter("node-name", "NAME", "the node that saw it", "filters:node", of_end=False),
    _Filter("min-response-time", "DURATION", "a response took at least this: 250us, 100ms, 1.5s", "filters:min_response_time",
            of_end=False),
    _Filter("min-connect-time", "DURATION", "connecting took at least this", "filters:min_connect_time", of_end=False),
    _Filter("min-retransmits", "NUMBER", "at least so many segments and SYNs were sent again", "filters:min_retransmits",
            of_end=False),
    _Filter("to-name", "GLOB", "the destination's address was looked up under this name: '*.stripe.com'",
            "name_filters:to_name",
            of_end=False),
    _Filter("dns-name", "GLOB", "this name was looked up", "name_filters:dns_name", of_end=False),
    _Filter("dns-code", "CODE", "a lookup was answered so: nxdomain, servfail, noerror ...; `none`: not at all",
            "name_filters:dns_code", of_end=False),
)  # fmt: skip

_NOT: Final = "--not"
_SIDES: Final[tuple[tuple[str, Where, str], ...]] = (
    ("", "either", "Either end is"),
    ("from-", "source", "The source is"),
    ("to-", "destination", "The destination is"),
)


def _imported(test: str) -> Any:
    module, _, name = test.partition(":")
    return getattr(importlib.import_module(f"services.cli.tap.{module}"), name)


class _Test(click.ParamType[Any]):
    """The text given to a filter, as what it accepts."""

    name = "text"

    def __init__(self, test: str, where: Where | None) -> None:
        self._test = test
        self._where = where

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            accepted = _imported(self._test)(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)
        return accepted if self._where is None else _imported("filters:at")(self._where, accepted)


class FilterOption(click.Option):
    """One filter, of one end or of the record, or its negation."""

    def __init__(
        self, given: _Filter, *, where: Where | None, side: str = "", subject: str = "", negated: bool = False
    ) -> None:
        self.field = f"{side}{given.name}"
        self.negated = negated
        self.enriched_only = given.enriched_only
        self._flag = None if given.metavar else given.test
        takes: dict[str, Any] = {"is_flag": True}
        if self._flag is None:
            takes = {"metavar": given.metavar, "type": _Test(given.test, where), "multiple": True}
        super().__init__(
            [f"--not-{self.field}" if negated else f"--{self.field}"],
            hidden=negated,
            help=f"{subject} {given.help}." if subject else f"{given.help[0].upper()}{given.help[1:]}.",
            **takes,
        )

    def accepted(self, value: Any) -> Sequence[RecordTest]:
        """Return what is accepted where the option was given as `value`."""
        if self._flag is None:
            tests: Sequence[RecordTest] = value
            return tests
        return [_imported(self._flag)] if value else []


class FilterCommand(click.Command):
    """A command with an option for every filter, each of which may have `--not` before it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _options()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Make `--not --port 80` the negated option that stands for it."""
        return super().parse_args(ctx, list(_negations_joined(args)))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the filters apart from the rest."""
        rest: list[tuple[str, str]] = []
        filtering: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                (filtering if isinstance(parameter, FilterOption) else rest).append(record)
        for title, records in (("Options", rest), ("Filters", [*filtering, (_NOT, "Leave out what the next filter accepts.")])):
            with formatter.section(title):
                formatter.write_dl(records)


def conditions(ctx: click.Context, *, enriched: bool) -> list[Condition]:
    """Return the filters that a command was called with.

    Raises click.UsageError where one needs names and the records that are asked for have none.
    """
    found: list[Condition] = []
    for option in ctx.command.params:
        if isinstance(option, FilterOption) and (given := option.accepted(ctx.params[str(option.name)])):
            if option.enriched_only and not enriched:
                raise click.UsageError(f"--{option.field} needs records with names, and --raw ones have none", ctx)
            condition = _imported("filters:Condition")
            found += [condition(option.field, accepts, option.negated) for accepts in given]
    return found


def _options() -> Iterator[FilterOption]:
    for one in _FILTERS:
        for negated in (False, True):
            if not one.of_end:
                yield FilterOption(one, where=None, negated=negated)
                continue
            for side, where, subject in _SIDES:
                yield FilterOption(one, where=where, side=side, subject=subject, negated=negated)


def _negations_joined(args: list[str]) -> Iterator[str]:
    names = {f"--{option.field}" for option in _options()}
    words = iter(args)
    for word in words:
        if word != _NOT:
            yield word
            continue
        option = next(words, "")
        if option.partition("=")[0] not in names:
            raise click.UsageError(f"{_NOT} stands before a filter, as in {_NOT} --port 53")
        yield f"--not-{option.removeprefix('--')}"
