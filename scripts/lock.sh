#!/usr/bin/env bash
# Resolve requirements.lock (what `make up` installs) and requirements-dev.lock (that, tests, lint)
# for every Python of at least 3.11, with hashes. Arguments go to uv, such as --upgrade.
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
    --extra examples --extra kubernetes --extra s3 --group build "$@" >/dev/null
}
resolve "$@" --output-file requirements.lock
# The second agrees with the first: only what that does not hold is resolved anew.
resolve "$@" --extra hub --group lint --group matrix --group test --constraints requirements.lock \
  --output-file requirements-dev.lock
