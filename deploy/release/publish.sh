#!/usr/bin/env bash
# Sends the images and the chart that `make release` made to a registry that skopeo, docker and helm are logged in to.
#   publish.sh DIST VERSION REGISTRY        for instance: publish.sh dist 0.1.0 ghcr.io/wirespan
set -euo pipefail
dist=$1 version=$2 registry=$3
for name in wirespan-capture wirespan-enricher wirespan-exporter wirespan; do
  of_each=()
  for archive in "$dist/$name-$version"-*.oci.tar; do
    [ -e "$archive" ] || { echo "there is no $archive: make release-images" >&2; exit 1; }
    architecture=${archive##*-} architecture=${architecture%.oci.tar}
    skopeo copy "oci-archive:$archive" "docker://$registry/$name:$version-$architecture"
    of_each+=("$registry/$name:$version-$architecture")
  done
  # One name for all architectures: whoever pulls it is given his own.
  docker buildx imagetools create --tag "$registry/$name:$version" "${of_each[@]}"
done
helm push "$dist/wirespan-$version.tgz" "oci://$registry/charts"
