"""A real Prometheus with the settings and the alerts of deploy/compose; only where its targets listen is another."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

import yaml

from tests.support.ports import free_port

ROOT: Final = Path(__file__).parents[3]
SETTINGS: Final = ROOT / "deploy" / "compose" / "prometheus.yaml"
WAIT_SECONDS: Final = 120

Series: TypeAlias = list[tuple[dict[str, str], float]]
"""Labels and value of each series."""


class Prometheus(AbstractContextManager["Prometheus"]):
    """`ports` are those of the targets by the names that they have in the settings; other targets are left out."""

    def __init__(self, executable: Path, folder: Path, ports: Mapping[str, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._executable = executable
        self._folder = folder
        self._ports = ports
        self._port = free_port()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        config = self._folder / "prometheus.yaml"
        config.write_text(yaml.safe_dump(self._settings()))
        log = self._folder / "prometheus.log"
        command = [
            self._executable,
            f"--config.file={config}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--web.enable-remote-write-receiver",
        ]
        with log.open("w") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            self._until(self._is_ready, lambda: f"Prometheus did not start:\n{log.read_text()[-2000:]}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._process.terminate()
        self._process.wait(WAIT_SECONDS)

    def ask(self, query: str) -> Series:
        """The value of a query now. Raises AssertionError with what Prometheus says of a query that is wrong."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                result: list[dict[str, Any]] = json.load(response)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from None
        return [(found["metric"], float(found["value"][1])) for found in result]

    def alerts(self) -> list[dict[str, Any]]:
        """The alerting rules as they stand, once every one has been evaluated."""
        found: list[dict[str, Any]] = []

        def evaluated() -> bool:
            with urllib.request.urlopen(f"{self.url}/api/v1/rules?type=alert", timeout=30) as response:
                groups = json.load(response)["data"]["groups"]
            found[:] = [rule for group in groups for rule in group["rules"]]
            return all(rule["health"] != "unknown" for rule in found)

        self._until(evaluated, lambda: f"not evaluated: {found}")
        return found

    def wait_for(self, query: str) -> Series:
        """The value of a query as soon as it has one that is above 0."""
        found: Series = []

        def asked() -> bool:
            found[:] = [(labels, value) for labels, value in self.ask(query) if value > 0]
            return bool(found)

        self._until(asked, lambda: f"nothing above 0 for {query}")
        return found

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = yaml.safe_load(SETTINGS.read_text())
        settings["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
        settings["rule_files"] = [str(SETTINGS.parent / name) for name in settings["rule_files"]]
        for job in settings["scrape_configs"]:
            for group in job["static_configs"]:
                names = [target.partition(":")[0] for target in group["targets"]]
                group["targets"] = [f"127.0.0.1:{self._ports[name]}" for name in names if name in self._ports]
        return settings

    def _is_ready(self) -> bool:
        assert self._process.poll() is None
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=10):
                return True
        except OSError:
            return False

    def _until(self, condition: Callable[[], bool], complaint: Callable[[], str]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(complaint())
            time.sleep(0.1)
