#!/usr/bin/env bash
# The images as OCI archives, one for each image and architecture, with a list of what is in each (CycloneDX).
#   images.sh DIST VERSION        ARCHITECTURES="amd64 arm64" says which
# What cannot be built here is skipped with the reason, in DIST/SKIPPED; with RELEASE_STRICT=1 that is an error.
set -euo pipefail
cd "$(dirname "$0")/../.."
dist=$1 version=$2
python=${PYTHON:-python3}
base=${BASE_IMAGE:-debian:bookworm-slim}
declare -A images=([capture]=wirespan-capture [capture-bcc]=wirespan-capture-bcc [enricher]=wirespan-enricher [exporter]=wirespan-exporter [cli]=wirespan)
revision=$(git rev-parse HEAD 2>/dev/null || true)
mkdir -p "$dist"
rm -f "$dist"/wirespan*.oci.tar "$dist"/wirespan*.oci.cdx.json "$dist"/wirespan-*-digests.yaml "$dist/SKIPPED"

skipped() {
  echo "skipped: $*" | tee -a "$dist/SKIPPED"
  [ "${RELEASE_STRICT:-0}" = 0 ] || exit 1
}
if ! docker version >/dev/null 2>&1; then skipped "images: no Docker engine answers"; exit 0; fi
if ! command -v skopeo >/dev/null; then skipped "images: no skopeo, which writes OCI archives (apt install skopeo)"; exit 0; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A tag may move between two builds: the digest that it has now is the base of all images, whatever their architecture.
digest=
if [[ $base != *@* ]]; then
  docker pull --quiet "$base" >/dev/null 2>&1 || true # one that is only here is used as it is
  digest=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$base" 2>/dev/null | sed -n 's/.*@//p' | head -n 1)
  base=$base${digest:+@$digest}
fi
[[ $base == *@* ]] && digest=${base##*@} || skipped "the digest of $base: it is of no registry"
for architecture in ${ARCHITECTURES:-amd64 arm64}; do
  platform=linux/$architecture
  if ! reason=$(docker run --rm --platform "$platform" "$base" true 2>&1); then
    skipped "images for $architecture: $base does not run here: $(grep -v "See 'docker" <<<"$reason" | tail -n 1)"
    continue
  fi
  for target in capture capture-bcc enricher exporter cli; do
    name=${images[$target]} tag=${images[$target]}:$version-$architecture
    archive=$dist/$name-$version-$architecture.oci.tar
    docker build --quiet --platform "$platform" --file deploy/docker/Dockerfile --target "$target" --build-arg "BASE_IMAGE=$base" \
      --build-arg "BASE_DIGEST=$digest" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" --tag "$tag" . >/dev/null
    docker run --rm --interactive --platform "$platform" --entrypoint /opt/wirespan/bin/python "$tag" - <deploy/release/contents.py |
      "$python" deploy/release/sbom.py "$name" "$version" "$base" >"${archive%.tar}.cdx.json"
    # Not docker-daemon:, which looks for the engine by other rules than docker does.
    docker save --output "$work/image.tar" "$tag"
    skopeo copy --quiet "docker-archive:$work/image.tar" "oci-archive:$archive:$version"
    echo "$archive"
  done
done
"$python" deploy/release/digests.py "$dist" "$version"
