#!/usr/bin/env bash
# What a wheel brings along when it is installed with the versions of requirements.lock, and the page in it, as CycloneDX.
#   wheel_sbom.sh DIST VERSION
set -euo pipefail
cd "$(dirname "$0")/../.."
dist=$1 version=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
wheel=$(echo "$dist"/wirespan-"$version"-*"$(uname -m)".whl)
.venv/bin/uv venv --quiet --python .venv/bin/python "$work/venv"
.venv/bin/uv pip install --quiet --python "$work/venv" --constraints requirements.lock "$wheel"
"$work/venv/bin/python" - <deploy/release/contents.py | grep '"pypi"' |
  .venv/bin/python deploy/release/sbom.py wirespan "$version" >"$dist/wirespan-$version.cdx.json"
echo "$dist/wirespan-$version.cdx.json"
