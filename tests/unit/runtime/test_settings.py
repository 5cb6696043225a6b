"""Settings: typed, documented, and every fault at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from services.runtime.settings import (
    HealthSettings,
    LogSettings,
    NatsSettings,
    ServiceSettings,
    SettingsError,
    StreamSettings,
    describe,
    load,
)

PREFIX = "WIRESPAN_SAMPLE_"


class SampleSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One field of every supported kind."""

    name: Annotated[str, Meta(min_length=2, description="a name")]
    count: Annotated[int, Meta(ge=1, description="how many")] = 3
    ratio: Annotated[float, Meta(description="a share")] = 0.5
    loud: Annotated[bool, Meta(description="shout")] = False
    mode: Annotated[Literal["fast", "safe"], Meta(description="which way")] = "safe"
    folder: Annotated[Path | None, Meta(description="where")] = None
    files: Annotated[tuple[Path, ...], Meta(description="which")] = ()
    limit: Annotated[int | None, Meta(le=9, description="at most")] = 5
    secret: Annotated[str, Meta(min_length=8, description="a secret", extra={"secret": True})] = "long enough"


def faults(environ: dict[str, str], path: Path | None = None) -> tuple[str, ...]:
    """What is wrong with these variables."""
    with pytest.raises(SettingsError) as error:
        load(SampleSettings, prefix=PREFIX, environ=environ, path=path)
    return error.value.faults


def test_every_kind_of_field_is_read_from_its_variable() -> None:
    """Text becomes the field's type; groups have variables of their own."""
    settings = load(
        SampleSettings,
        prefix=PREFIX,
        environ={
            "WIRESPAN_SAMPLE_NAME": "ab",
            "WIRESPAN_SAMPLE_COUNT": "7",
            "WIRESPAN_SAMPLE_RATIO": "1",
            "WIRESPAN_SAMPLE_LOUD": "true",
            "WIRESPAN_SAMPLE_MODE": "fast",
            "WIRESPAN_SAMPLE_FOLDER": "/tmp",
            "WIRESPAN_SAMPLE_FILES": "a.pcap, b.pcap",
            "WIRESPAN_SAMPLE_LIMIT": "",
            "WIRESPAN_SAMPLE_DRAIN_SECONDS": "2.5",
            "WIRESPAN_NATS_URL": "nats://a:1,nats://b:2",
            "WIRESPAN_LOG_LEVEL": "debug",
            "WIRESPAN_OTHER_COUNT": "ignored: another service's",
            "PATH": "/bin",
        },
    )

    assert settings == SampleSettings(
        name="ab",
        count=7,
        ratio=1.0,
        loud=True,
        mode="fast",
        folder=Path("/tmp"),
        files=(Path("a.pcap"), Path("b.pcap")),
        limit=None,
        drain_seconds=2.5,
        nats=NatsSettings(url="nats://a:1,nats://b:2"),
        log=LogSettings(level="debug"),
    )


def test_every_fault_is_told_at_once_and_secrets_are_not() -> None:
    """One line per fault with the variable, what it held and what is wanted; a secret is never repeated."""
    told = faults(
        {
            "WIRESPAN_SAMPLE_COUNT": "0",
            "WIRESPAN_SAMPLE_LOUD": "perhaps",
            "WIRESPAN_SAMPLE_MODE": "slow",
            "WIRESPAN_SAMPLE_LIMIT": "10",
            "WIRESPAN_SAMPLE_SECRET": "hunter2",
            "WIRESPAN_SAMPLE_COUTN": "1",
            "WIRESPAN_NATS_PASSWORD": "hunter3",
            "WIRESPAN_NATS_TIMEOUT": "1",
        }
    )

    assert told == (
        "WIRESPAN_NATS_TIMEOUT: there is no such setting",
        "WIRESPAN_SAMPLE_NAME: must be set: a name",
        "WIRESPAN_SAMPLE_COUNT='0': takes an integer of at least 1",
        "WIRESPAN_SAMPLE_LOUD='perhaps': takes true or false",
        "WIRESPAN_SAMPLE_MODE='slow': takes one of fast, safe",
        "WIRESPAN_SAMPLE_LIMIT='10': takes an integer of at most 9",
        "WIRESPAN_SAMPLE_SECRET=***: takes text of at least 8 characters",
        "WIRESPAN_SAMPLE_COUTN: there is no such setting",
    )


def test_combinations_that_cannot_work_are_faults() -> None:
    """A user without a password and a password in a URL: told by name, without the value."""
    told = faults({"WIRESPAN_SAMPLE_NAME": "ab", "WIRESPAN_NATS_USER": "a", "WIRESPAN_NATS_TOKEN": "hunter2"})
    assert told == ("WIRESPAN_NATS_*: user and password need each other",)


def test_a_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    """`WIRESPAN_CONFIG` names a TOML file with a table per service and group; a variable overrides it."""
    path = tmp_path / "wirespan.toml"
    path.write_text('[sample]\nname = "file"\ncount = 4\nfiles = ["a"]\n[nats]\nurl = "nats://file"\n[exporter]\nany = 1\n')

    settings = load(
        SampleSettings, prefix=PREFIX, environ={"WIRESPAN_CONFIG": str(path), "WIRESPAN_SAMPLE_COUNT": "9"}, path=None
    )

    assert (settings.name, settings.count, settings.files, settings.nats.url) == ("file", 9, (Path("a"),), "nats://file")


def test_faults_of_the_file_name_its_place(tmp_path: Path) -> None:
    """A wrong type, an unknown key and a file that is no TOML are faults like all others."""
    path = tmp_path / "wirespan.toml"
    path.write_text('log = 3\n[sample]\nname = "ab"\ncount = "4"\nname2 = 1\n')
    broken = tmp_path / "broken.toml"
    broken.write_text("[sample")

    assert faults({}, path) == (
        f"{path}: 'log' should be a table",
        f"{path} [sample] count='4': takes an integer of at least 1",
        f"{path} [sample] name2: there is no such setting",
    )
    assert faults({"WIRESPAN_SAMPLE_NAME": "ab"}, broken)[0].startswith(f"WIRESPAN_CONFIG={broken}: ")
    assert "No such file" in faults({"WIRESPAN_CONFIG": "/nonexistent", "WIRESPAN_SAMPLE_NAME": "ab"})[0]


def test_every_variable_is_described() -> None:
    """The table of settings has name, type, default and meaning of every variable, the groups' too."""
    rows = {row.name: row for row in describe(SampleSettings, PREFIX)}

    assert rows["WIRESPAN_SAMPLE_NAME"][1:] == ("text", "required", "a name")
    assert rows["WIRESPAN_SAMPLE_MODE"][1:] == ("`fast` or `safe`", "safe", "which way")
    assert rows["WIRESPAN_SAMPLE_FILES"][1:] == ("path, ...", "", "which")
    assert rows["WIRESPAN_SAMPLE_LIMIT"][1:] == ("integer", "5", "at most")
    assert rows["WIRESPAN_SAMPLE_LOUD"][1:] == ("true or false", "false", "shout")
    assert rows["WIRESPAN_NATS_URL"].default == "nats://127.0.0.1:4222"
    assert all(row.description for row in rows.values())


def test_the_defaults_do_not_change_unnoticed() -> None:
    """What an installation without settings gets."""
    assert msgspec.structs.asdict(StreamSettings()) == {
        "raw_bytes": 1 << 30,
        "raw_node_share": 0.5,
        "enriched_bytes": 1 << 30,
        "cache_bytes": 256 << 20,
        "recent_bytes": 32 << 20,
        "dead_bytes": 256 << 20,
        "dead_max_age_seconds": 604_800,
        "duplicate_window_seconds": 600,
        "partitions": 1,
        "partitions_consumed": 0,
        "replicas": 1,
        "storage": "file",
    }
    assert HealthSettings() == HealthSettings(host="127.0.0.1", port=0)
    assert LogSettings() == LogSettings(level="info", format="auto")
    assert NatsSettings().url == "nats://127.0.0.1:4222"


@pytest.mark.parametrize("url", ["nats://host:abc", "nats://:4222", "nats://a:1,nats://user:secret@b:99999", "tls://"])
def test_an_address_of_nats_that_names_no_server_is_refused(url):
    """It is said at once, without what is secret in it, and not waited for."""
    said = "\n".join(faults({"WIRESPAN_NATS_URL": url}))
    assert "names no server" in said
    assert "secret" not in said
