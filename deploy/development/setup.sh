#!/usr/bin/env bash
# Makes a fresh machine ready: system packages where it may install them, the locked Python packages in .venv, and Wirespan
# itself from this checkout. Says what it could not install and what will not work without it. Safe to run again: done work is
# not done twice.
#   setup.sh run [shop] [test] [e2e] [cluster] [kernels]
# "shop" adds the databases of the shop; "test" what only the tests use; "e2e" Docker, Compose, what makes a base image and what
# OpenSearch is started by; "cluster" what a node of Kubernetes is made of; "kernels" emulators for other kernels.
set -euo pipefail
cd "$(dirname "$0")/../.."
purposes=" $* "

say() { printf 'setup: %s\n' "$*"; }
wants() { [[ $purposes == *" $1 "* ]]; }
has_header() { printf '#include <%s>\n' "$1" | "${CC:-cc}" -E -x c - >/dev/null 2>&1; }

# Where Python is told to write no bytecode it compiles numpy anew in every process: half a second of each start. Some files of
# packages are for other versions of Python.
compiled() { .venv/bin/python -m compileall -q -j 0 "$@" >/dev/null 2>&1 || true; }

# What is missing, by the Debian package that brings it.
missing=()
need() { local package=$1; shift; "$@" >/dev/null 2>&1 || missing+=("$package"); }
need gcc command -v "${CC:-cc}"
need libc6-dev has_header stdio.h
need python3-venv python3 -c 'import ensurepip, venv'
need python3-bpfcc /usr/bin/python3 -c 'import bcc'
need nodejs command -v node
need npm command -v npm
if wants shop; then
  # Debian's packages start their daemons where there is a systemd; the shop starts its own, on other addresses.
  need postgresql compgen -G '/usr/lib/postgresql/*/bin/initdb'
  need redis-server command -v redis-server
fi
if wants test; then
  need tshark command -v tshark
  need libpcap-dev has_header pcap.h
  need iproute2 command -v ip
  need iptables command -v iptables
  need nftables command -v nft
  need clang command -v clang
  need libfaketime compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1'
  need nghttp2-client command -v h2load
  need nghttp2-server command -v nghttpd
  need dnsmasq-base command -v dnsmasq
  need gnutls-bin command -v gnutls-serv
  need libclang-rt-dev compgen -G '/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*'
fi
if wants e2e; then
  need docker.io command -v dockerd
  need docker-compose sh -c 'command -v docker-compose || docker compose version'
  need debootstrap command -v debootstrap
  need skopeo command -v skopeo
  need default-jdk-headless command -v javac
  need maven command -v mvn
  need chromium command -v chromium
  if [ ! -d /run/systemd/system ]; then # where these would start as daemons
    need nginx-light command -v nginx
    need unbound command -v unbound
  fi
fi
if wants kernels; then
  need qemu-system-x86 command -v qemu-system-x86_64
  need qemu-system-arm command -v qemu-system-aarch64
fi
if wants cluster; then
  need containerd command -v containerd
  need runc command -v runc
  need containernetworking-plugins sh -c 'test -e /usr/lib/cni/bridge || test -e /opt/cni/bin/bridge'
  need util-linux command -v setpriv
fi

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    { apt-get update -q && apt-get install -q -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 || {
      tail -n 5 "$log"
      say "apt-get could not install all of: ${missing[*]} (whole log: $log)"
    }
  else
    say "missing and not installed (that takes root on Debian or Ubuntu): ${missing[*]}"
    for package in "${missing[@]}"; do
      case $package in
        gcc | libc6-dev) say "  $package: reading capture files needs it (elsewhere: a C compiler and the C library's headers)" ;;
        libpcap-dev) say "  $package: the benchmark of replay compares itself with it" ;;
        python3-bpfcc) say "  $package: live capture needs it; without it a capture file is replayed" ;;
        postgresql | redis-server) say "  $package: the shop does without it; faults of the database need it" ;;
        nodejs | npm) say "  $package: the page of \`wirespan view\` is built with it" ;;
        python3-venv) say "  $package: the virtual environment needs it" ;;
        *) say "  $package: the tests that use it will be skipped" ;;
      esac
    done
  fi
fi

python=
for candidate in python3.13 python3.12 python3.11 python3; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || { say "Python 3.11, 3.12 or 3.13 is needed; found: $(python3 --version 2>&1 || echo none)"; exit 1; }

# The stamp changes with everything the environment is made from.
stamp=$({ "$python" --version; pwd; cat requirements.lock pyproject.toml hatch_build.py bpf/*/*.[ch] bpf/engine/*/*.h bpf/replay/*/*.h bpf/tap/compiling/*.c; } | sha256sum | cut -c1-16)
if [ "$(cat .venv/.stamp 2>/dev/null)" != "$stamp" ]; then
  say "installing the Python packages of requirements.lock into .venv"
  [ -x .venv/bin/pip ] || "$python" -m venv .venv
  .venv/bin/python -m pip install -q --disable-pip-version-check "$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.lock)"
  .venv/bin/uv pip sync -q --python .venv/bin/python --require-hashes requirements.lock
  .venv/bin/uv pip install -q --python .venv/bin/python --no-deps --no-build-isolation --editable .
  compiled .venv/lib/python*/site-packages
  # What capture loads, which runs without docstrings (-OO): that is bytecode of its own.
  compiled -o 2 -x /tests/ .venv/lib/python*/site-packages/{numpy,opentelemetry,structlog,prometheus_client,nats,msgspec,msgpack}
  echo "$stamp" >.venv/.stamp
fi
compiled -o 0 -o 2 bpf proto services

# The page of `wirespan view`, which is left out where it cannot be built. Packages come by npm's own configuration.
web=services/cli/view/web
stamp=$({ node --version; cat $web/package-lock.json $web/build.mjs $(find $web/src -type f | sort); } 2>/dev/null | sha256sum | cut -c1-16)
if [ "$(cat $web/node_modules/.stamp 2>/dev/null)" != "$stamp" ] || [ ! -e services/cli/view/assets/index.html ]; then
  if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    say "the page of \`wirespan view\` is not built: there is no Node with npm"
  else
    say "building the page of \`wirespan view\`"
    log=$(mktemp)
    if (cd $web && timeout 120 npm ci --ignore-scripts --fetch-retries=1 --fetch-timeout=20000 && npm run --silent build) >"$log" 2>&1; then
      echo "$stamp" >$web/node_modules/.stamp
    else
      tail -n 3 "$log"
      say "the page of \`wirespan view\` is not built (whole log: $log)"
    fi
  fi
fi
