"""`python -m services.enricher.kubernetes.export`: writes the objects of a live cluster as a snapshot, for `wirespan snapshot`.

Exit codes: 0 written; 1 the API server could not be asked; 2 it is not known which, or the file cannot be written.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from services.enricher.errors import ApiRefusedError, ApiUnreachableError, KubeConfigError
from services.enricher.kubernetes.api import KubeApi, find_api
from services.enricher.kubernetes.listing import whole_list
from services.enricher.kubernetes.pseudonyms import Pseudonyms
from services.enricher.kubernetes.resources import Resource, followed, object_decoders
from services.enricher.kubernetes.selection import Selection
from services.enricher.settings import KubeSettings
from services.runtime.privacy.private_files import write_private
from services.runtime.privacy.redaction import guard_standard_error
from services.runtime.settings import SettingsError, load

_SILENCE_SECONDS = 60.0
_DENIED = frozenset((403, 404))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the snapshot; return the exit code."""
    guard_standard_error()
    parser = argparse.ArgumentParser(
        prog="python -m services.enricher.kubernetes.export", description="Write a snapshot of a live cluster."
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--kubeconfig", type=Path)
    parser.add_argument("--namespace", action="append", default=[])
    parser.add_argument("--pseudonymise", action="store_true")
    parser.add_argument("--pseudonym-key")
    parser.add_argument("--pseudonym-map", type=Path)
    asked = parser.parse_args(arguments)
    pseudonyms = Pseudonyms(asked.pseudonym_key or secrets.token_hex(16)) if asked.pseudonymise else None
    try:
        settings = load(KubeSettings, prefix="WIRESPAN_KUBE_")
        settings = msgspec.structs.replace(settings, namespaces=tuple(asked.namespace))
        items = list(objects(_api(asked.kubeconfig), settings))
        if pseudonyms is not None:
            items = [pseudonyms.replaced(item) for item in items]
            if asked.pseudonym_map:
                write_private(asked.pseudonym_map, json.dumps(pseudonyms.given, indent=1, sort_keys=True) + "\n")
        _write(asked.output, items)
    except (ApiRefusedError, ApiUnreachableError) as error:
        sys.stderr.write(f"wirespan: the API server could not be asked: {error}\n")
        return 1
    except (KubeConfigError, SettingsError, OSError) as error:
        sys.stderr.write(f"wirespan: {error}\n")
        return 2
    sys.stderr.write(f"wirespan: {len(items)} objects written\n")
    return 0


def _api(kubeconfig: Path | None) -> KubeApi:
    """The API server that kubectl would ask, or in a pod that of its service account. Raises KubeConfigError."""
    api = find_api("auto", kubeconfig=kubeconfig, silence_seconds=_SILENCE_SECONDS)
    api = api or find_api("kubeconfig", kubeconfig=None, silence_seconds=_SILENCE_SECONDS)
    if api is None:
        raise KubeConfigError("no API server is named")
    return api


def objects(api: KubeApi, settings: KubeSettings) -> Iterator[dict[str, Any]]:
    """Yield what the index reads of every object that may be listed; name on standard error what may not.

    Raises ApiRefusedError where nothing may be listed or for other refusals, ApiUnreachableError.
    """
    denied: list[ApiRefusedError] = []
    asked, selection = followed(settings), Selection(settings)
    for resource, namespace in asked:
        try:
            listed, _ = whole_list(api, resource, namespace, partial(_slim, resource, selection))
        except ApiRefusedError as error:
            if error.status not in _DENIED:
                raise
            denied.append(error)
            sys.stderr.write(f"wirespan: left out: {resource.name}{f' in {namespace}' if namespace else ''}: {error}\n")
            continue
        yield from listed
    if len(denied) == len(asked):
        raise denied[0]


def _slim(resource: Resource, selection: Selection, item: msgspec.Raw) -> dict[str, Any] | None:
    try:
        obj = object_decoders[resource].decode(item)
    except msgspec.DecodeError as error:
        sys.stderr.write(f"wirespan: left out: one of {resource.name}: {error}\n")
        return None
    selection.trim(obj)
    fields = msgspec.to_builtins(obj, str_keys=True)
    return {"apiVersion": resource.api_version, "kind": resource.kind, **_without_nothing(fields)}


def _without_nothing(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _without_nothing(value) for name, value in tree.items() if value is not None}
    return [_without_nothing(each) for each in tree] if isinstance(tree, (list, tuple)) else tree


def _write(output: Path | None, items: Sequence[dict[str, Any]]) -> None:
    """One object a line, whole or not at all."""
    lines = ",\n".join(json.dumps(item, ensure_ascii=False, separators=(",", ":")) for item in items)
    text = f'{{"apiVersion":"v1","kind":"List","items":[\n{lines}\n]}}\n'
    if output is None:
        sys.stdout.write(text)
        return
    write_private(output, text)


if __name__ == "__main__":
    sys.exit(main())
