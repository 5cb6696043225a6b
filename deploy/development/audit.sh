#!/usr/bin/env bash
# Known vulnerabilities of what is locked: of the Python packages by pip-audit and OSV's database, of the page's by npm's.
# Ends with 1 where there is one. A database that cannot be reached is said with its reason, and is no error.
set -uo pipefail
cd "$(dirname "$0")/../.."
found=0 reached=yes

# audit NAME PATTERN COMMAND...: what COMMAND finds has PATTERN in it; whatever else it ends with is a reason.
audit() {
  local name=$1 pattern=$2 said
  shift 2
  if said=$(timeout 120 "$@" 2>&1); then
    echo "audit: $name: nothing known"
  elif grep -qE "$pattern" <<<"$said"; then
    printf 'audit: %s:\n%s\n' "$name" "$said"
    found=1
  else
    reached=no
    echo "SKIPPED audit of $name: $(grep -v 'complete log' <<<"$said" | grep . | tail -n 1 | cut -c1-200)"
  fi
}

# Where the database is not reached for the first, nobody waits for it again.
for lock in requirements.lock deploy/release/requirements.lock tests/bench/load/requirements.lock; do
  [ "$reached" = yes ] || break
  audit "$lock" "known vulnerabilit" .venv/bin/uv tool run --quiet pip-audit --require-hashes --disable-pip --vulnerability-service osv \
    --progress-spinner off --requirement "$lock"
done
audit services/cli/view/web/package-lock.json "severity" npm --prefix services/cli/view/web audit --omit=dev
exit "$found"
