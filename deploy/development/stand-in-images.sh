#!/usr/bin/env bash
# Makes look-alikes of the images that ours are built from and run beside, under the same tags, for a machine that has a Docker
# engine and packages but no registry of images. Needs root, debootstrap and the virtual environment of `make setup`.
#   stand-in-images.sh NATS_TAG      makes debian:bookworm-slim and NATS_TAG
# Authorities that this machine trusts and Debian does not are trusted in them too, or packages could not be fetched where the
# connection is inspected. The file systems are kept in a cache folder: the second time takes a second.
set -euo pipefail
cd "$(dirname "$0")/../.."
nats_tag=$1
debian_tag=debian:bookworm-slim
cache=${WIRESPAN_TOOLS_CACHE:-$HOME/.cache/wirespan-tools}/stand-in-images
mkdir -p "$cache"
work=$(mktemp -d "$cache/new.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Certificates of $1 that are in none of the files of folder $2, one .crt each into folder $3.
extra_authorities() {
  python3 - "$@" <<'PYTHON'
import hashlib, pathlib, re, ssl, sys
def certificates(path):
    text = path.read_text(errors="replace")
    found = re.findall("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", text, re.DOTALL)
    return {hashlib.sha256(ssl.PEM_cert_to_DER_cert(each)).hexdigest()[:16]: each for each in found}
shipped = {name for path in pathlib.Path(sys.argv[2]).rglob("*.crt") for name in certificates(path)}
for name, text in certificates(pathlib.Path(sys.argv[1])).items():
    if name not in shipped:
        (pathlib.Path(sys.argv[3]) / f"{name}.crt").write_text(text + "\n")
PYTHON
}

make_debian() {
  local root=$work/debian bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
  debootstrap --variant=minbase --include=ca-certificates,busybox bookworm "$root" >"$work/log" 2>&1 || { tail -n 5 "$work/log" >&2; return 1; }
  if [ -s "$bundle" ]; then
    extra_authorities "$bundle" "$root/usr/share/ca-certificates" "$root/usr/local/share/ca-certificates"
    chroot "$root" update-ca-certificates >"$work/log" 2>&1
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$root/etc/pip.conf"
  fi
  rm -rf "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/etc/{hostname,resolv.conf} \
    "$root"/usr/share/{doc,info,man}/*
  find "$root/usr/share/locale" -mindepth 1 -maxdepth 1 ! -name 'en*' -exec rm -rf {} +
  tar -C "$root" --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' -cf "$work/debian.tar" .
  mv "$work/debian.tar" "$cache/debian.tar"
}

# As the official image: same entry point and ports; the small wget of its Alpine is here busybox's.
make_nats() {
  cp "$(readlink -f .venv/bin/nats-server)" "$work/nats-server"
  cat >"$work/Dockerfile" <<DOCKERFILE
FROM $debian_tag
COPY nats-server /usr/local/bin/nats-server
RUN ln -s /bin/busybox /usr/local/bin/wget
EXPOSE 4222 6222 8222
ENTRYPOINT ["nats-server"]
DOCKERFILE
  DOCKER_BUILDKIT=0 docker build --quiet --tag "$nats_tag" "$work"
}

[ -s "$cache/debian.tar" ] || make_debian
docker import --change 'CMD ["bash"]' --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
  "$cache/debian.tar" "$debian_tag"
make_nats
