#!/usr/bin/env bash
# `check.sh lint`: style, types, import contract. `check.sh all [GROUP...]`: that, then the tests of
# the groups named (unit, contract, integration, e2e, chaos; all of them without a name).
# Everything is run even when something before it failed; any failure fails the whole.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PWD/.venv/bin:$PATH

mode=${1:-all}
(( $# )) && shift
failed=()
times=()

check() { # name, command...
  local name=$1 begin=$EPOCHREALTIME status=0
  shift
  printf -- '-- %s\n' "$name"
  "$@" || status=$?
  times+=("$(printf '%-12s %7.1f s' "$name" "$(elapsed "$begin" "$EPOCHREALTIME")")")
  (( status == 0 )) || failed+=("$name")
}

elapsed() { # microsecond clock readings -> seconds between them
  local from=${1/[.,]/} to=${2/[.,]/}
  printf '%d.%01d' $(((to - from) / 1000000)) $(((to - from) / 100000 % 10))
}

lint() {
  check "ruff check" ruff check --quiet .
  check "ruff format" ruff format --check --quiet .
  check mypy mypy
  check imports lint-imports
  printf '%s\n' "${times[@]}"
  return ${#failed[@]}
}

if [ "$mode" != all ]; then
  lint
else
  # Most of it is a minute of mypy, on one core: it has what the tests leave, and is shown after them.
  linted=$(mktemp)
  (renice -n 10 "$BASHPID" >/dev/null; lint) >"$linted" 2>&1 &
  linting=$!
  trap 'kill "$linting" 2>/dev/null; rm -f "$linted"' EXIT
  groups=()
  for group in "${@:-unit contract integration e2e chaos}"; do
    for name in $group; do
      if [ -d "tests/$name" ]; then groups+=("tests/$name"); fi
    done
  done
  status=0
  # Most tests wait: for nodes to be lost, for kernels to start. One more than cores keeps them busy.
  # A file is one worker's, so that what its tests share is made once.
  python -m pytest --numprocesses $(($(nproc) + 1)) --dist loadfile --no-loadscope-reorder \
    "${groups[@]}" || status=$?
  # 5: a group that has no tests yet.
  (( status == 0 || status == 5 )) || failed+=(tests)
  wait "$linting" || failed+=(lint)
  cat "$linted"
fi

(( ${#failed[@]} == 0 )) && exit 0
printf 'failed: %s\n' "${failed[*]}"
exit 1
