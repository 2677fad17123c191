#!/usr/bin/env bash
# Build the images of images/Dockerfile with podman or docker: scripts/images.sh [FLAG...], where the
# flags go to `build`. BASE: what they are built on. TAG: their tag, else what this commit is called.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for program in podman docker; do
  if command -v "$program" >/dev/null && "$program" image ls --quiet >/dev/null 2>&1; then break; fi
  program=
done
if [ -z "$program" ]; then
  printf 'error: neither podman nor docker works here\nhint: install podman\n' >&2
  exit 10
fi

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
commit=$(git rev-parse --short=12 HEAD)
if [ -n "$(git status --porcelain -- checkpoint gateway sessionkeeper images pyproject.toml)" ]; then
  commit=$commit-changed
fi
tag=${TAG:-$version-$commit}
export SOURCE_DATE_EPOCH
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
dated=()
if [ "$program" = podman ]; then dated=(--timestamp "$SOURCE_DATE_EPOCH"); fi

for image in gateway agent; do
  "$program" build "${dated[@]}" ${BASE:+--build-arg "BASE=$BASE"} "$@" \
    --target "$image" --tag "sessionkeeper-$image:$tag" --file images/Dockerfile .
  echo "sessionkeeper-$image:$tag"
done
