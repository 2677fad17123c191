#!/usr/bin/env bash
# Resolve requirements.lock (what `make up` installs), requirements-dev.lock (that, tests, lint) and
# images/requirements.lock (what the images have) for every Python of at least 3.11, with hashes.
# Arguments go to uv, such as --upgrade.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PWD/.venv/bin:$PATH
command -v uv >/dev/null || {
  printf 'error: uv was not found\nhint: .venv/bin/pip install uv\n' >&2
  exit 12
}
resolve() {
  uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-header --no-annotate \
    --extra kubernetes --extra s3 --group build "$@" >/dev/null
}
more=(--extra examples --extra launch)
resolve "$@" "${more[@]}" --output-file requirements.lock
# The others agree with the first: only what that does not hold is resolved anew.
resolve "$@" --constraints requirements.lock --output-file images/requirements.lock
resolve "$@" "${more[@]}" --extra hub --group lint --group matrix --group test --constraints requirements.lock \
  --output-file requirements-dev.lock
