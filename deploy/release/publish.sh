#!/usr/bin/env bash
# Sends the images and the chart that `make release` made to a registry that skopeo and helm are logged in to (both take what
# `docker login` left).
#   publish.sh DIST VERSION REGISTRY        for instance: publish.sh dist 0.1.0 ghcr.io/wirespan
# PLAIN_HTTP=1 is for a registry on this machine.
set -euo pipefail
dist=$1 version=$2 registry=$3
tools=$(dirname "$0")
images=(wirespan-capture wirespan-capture-bcc wirespan-enricher wirespan-exporter wirespan)
for name in "${images[@]}"; do
  compgen -G "$dist/$name-$version-*.oci.tar" >/dev/null || { echo "there is no $dist/$name-$version-*.oci.tar: make release-images" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in "${images[@]}"; do
  python3 "$tools/multi_arch.py" "$work/$name.oci.tar" "$version" "$dist/$name-$version"-*.oci.tar
  skopeo copy --quiet --all --preserve-digests ${PLAIN_HTTP:+--dest-tls-verify=false} "oci-archive:$work/$name.oci.tar:$version" "docker://$registry/$name:$version"
done
helm push ${PLAIN_HTTP:+--plain-http} "$dist/wirespan-$version.tgz" "oci://$registry/charts"
