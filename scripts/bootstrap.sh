#!/usr/bin/env bash
# Make this checkout ready: `scripts/bootstrap.sh run` for `make up`, `... test` for `make test`.
#
# Installs the locked Python dependencies into .venv and, as root on Debian or Ubuntu, the system
# packages and a CRIU that works here. Does only what is not done yet, and can run twice at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=${1:-run}
case $profile in
  run)  lock=requirements.lock;     packages="runc nftables iproute2 procps" ;;
  test) lock=requirements-dev.lock; packages="runc nftables iproute2 procps util-linux git chromium
          fonts-dejavu-core libatomic1 r-cran-irkernel dbus-daemon podman
          node-configurable-http-proxy" ;;  # Playwright's driver needs libatomic
  *) echo "usage: $0 run|test" >&2; exit 2 ;;
esac

venv=.venv
work=.cache/setup
log=$work/$profile.log
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '%s\n' "$*" >&2; }
die() { # message, hint
  say "error: $1"
  say "hint: $2"
  exit 12
}

# step TEXT COMMAND...: run it with its output in the log; while it lasts say that it does.
step() {
  local text=$1 begin=$SECONDS pid said=0 status=0
  shift
  printf '\n== %s: %s\n' "$text" "$*" >>"$log"
  local from
  from=$(wc -l <"$log")
  "$@" >>"$log" 2>&1 </dev/null 8>&- 9>&- &
  pid=$!
  trap 'kill "$pid" 2>/dev/null || true; exit 130' INT TERM
  say "$text ..."
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if (( SECONDS - begin - said >= 5 )); then
      said=$((SECONDS - begin))
      say "  ${said} s: $(last_words)"
    fi
  done
  wait "$pid" || status=$?
  trap - INT TERM
  if (( status != 0 )); then
    tail -n "+$((from + 1))" "$log" | tail -n 15 | sed 's/^/  | /' >&2
    die "$text failed (all of its output is in $log)" "$(hint_for "$(tail -n "+$((from + 1))" "$log")")"
  fi
  if (( said > 0 )); then say "  done in $((SECONDS - begin)) s"; fi
}

last_words() {
  tail -n 20 "$log" | grep -v WARNING | tail -n 1 | tr -d '\r' | sed 's/^ *//' | cut -c 1-80 || true
}

hint_for() { # what a command said -> what to do
  case $1 in
    *"No space left"*|*"enough free space"*)
      echo "make room on the disk, then run it again" ;;
    *"DO NOT MATCH THE HASHES"*)
      echo "what was downloaded is not what is locked; a mirror may be stale or altered" ;;
    *"name resolution"*|*"resolving"*|*"ould not resolve"*|*"ould not connect"*|*"onnection"*|*"imed out"*|*"etwork is unreachable"*|*"Failed to fetch"*)
      echo "check the network and any proxy settings, then run it again" ;;
    *"Could not get lock"*|*"frontend lock"*)
      echo "another program is installing packages; run it again when that has ended" ;;
    *"dpkg was interrupted"*)
      echo "run \`dpkg --configure -a\`, then run it again" ;;
    *"o matching distribution"*)
      echo "the package index in use has not got it; check the network and pip's settings" ;;
    *) echo "the lines above say why; put it right, then run it again" ;;
  esac
}

is_root() { [ "$(id -u)" = 0 ]; }
has_apt() { command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; }

missing_packages() {
  local name
  for name in "$@"; do
    dpkg-query -W -f '${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed || echo "$name"
  done
}

installable() { apt-cache show --no-all-versions "$@" >/dev/null 2>&1; }

apt_quietly() {
  apt-get -q -y -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef \
    -o Dpkg::Options::=--force-confold "$@"
}

# apt_install PACKAGE...: those that are missing. The package lists are fetched only when they do
# not know a package, or know one that the mirror no longer has.
apt_install() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  (( ${#missing[@]} )) || return 0
  mkdir -p /var/lib/sessionkeeper
  exec 8>/var/lib/sessionkeeper/.apt.lock
  flock -n 8 || { say "waiting for another setup that installs packages"; flock 8; }
  installable "${missing[@]}" || step "reading the package lists" apt_quietly update
  step "installing ${missing[*]}" apt_get_install "${missing[@]}"
  exec 8>&-
}

apt_get_install() {
  apt_quietly install --no-install-recommends "$@" && return
  apt_quietly update && apt_quietly install --no-install-recommends "$@"
}

fits() { # a Python of at least 3.11 that can make virtual environments
  "$1" -I -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Kernels run as another user than root: that one must be able to reach the interpreter.
for_everybody() {
  local path
  path=$("$1" -I -c 'import os, sys; print(os.path.realpath(sys.executable))') || return 1
  while [ "$path" != / ]; do
    [ -n "$(find "$path" -maxdepth 0 -perm -0001)" ] || return 1
    path=$(dirname "$path")
  done
}

find_python() { # prints the first that fits; as root, first one that everybody can run
  local name path fallback=
  for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3}; do
    path=$(command -v "$name" 2>/dev/null) || continue
    fits "$path" || continue
    if ! is_root || [ -n "${PYTHON:-}" ] || for_everybody "$path"; then
      echo "$path"
      return 0
    fi
    fallback=${fallback:-$path}
  done
  [ -n "$fallback" ] && echo "$fallback"
}

make_venv() {
  local python
  if is_root && has_apt && [ -z "${PYTHON:-}" ]; then
    # Debian ships ensurepip apart from Python.
    python=$(find_python) && for_everybody "$python" || apt_install python3 python3-venv
  fi
  if ! python=$(find_python); then
    if [ -n "${PYTHON:-}" ]; then
      die "$PYTHON is not a Python of at least 3.11 with the modules venv and ensurepip" \
        "name another in PYTHON, or unset it"
    fi
    die "no Python of at least 3.11 with the modules venv and ensurepip was found" \
      "install one (Debian, Ubuntu: \`apt-get install python3-venv\` as root), or name it in PYTHON"
  fi
  rm -rf "$venv"
  step "making a virtual environment with $python" "$python" -m venv "$venv"
}

key_of() { # lock file: what an installation from it depends on
  local beside=
  if [ "$1" = requirements-dev.lock ]; then beside="tests/pandas-2.txt tests/jupyterhub-5.txt"; fi
  # shellcheck disable=SC2086 # a list of words
  { pwd; cat "$1" pyproject.toml $beside; } | sha256sum
}

installed() { # profile, lock file
  [ -f "$venv/.ready-$1" ] && [ "$(cat "$venv/.ready-$1")" = "$(key_of "$2")" ]
}

python_part() {
  "$venv/bin/python" -c '' 2>/dev/null || make_venv
  compile_sources
  # What the tests need includes what `make up` needs.
  if installed test requirements-dev.lock || installed "$profile" "$lock"; then return 0; fi
  step "installing the locked Python packages" "$venv/bin/python" -m pip install \
    --require-hashes --progress-bar off -r "$lock"
  step "installing sessionkeeper" "$venv/bin/python" -m pip install \
    --no-deps --no-build-isolation --no-index --editable .
  if [ "$profile" = test ]; then
    step "registering the bash kernel" "$venv/bin/python" -m bash_kernel.install --sys-prefix
    step "installing pandas 2 beside pandas 3" "$venv/bin/python" -m pip install --upgrade \
      --require-hashes --progress-bar off --no-deps --target "$venv/pandas-2" -r tests/pandas-2.txt
    step "installing JupyterHub 5 beside JupyterHub 6" "$venv/bin/python" -m pip install --upgrade \
      --require-hashes --progress-bar off --no-deps --target "$venv/jupyterhub-5" \
      -r tests/jupyterhub-5.txt
  fi
  key_of "$lock" >"$venv/.ready-$profile"
}

# As pip does with packages: each part and each node starts a Python of its own, in half the time so.
compile_sources() {
  "$venv/bin/python" -m compileall -q sessionkeeper gateway checkpoint >>"$log" 2>&1 || true
}

system_part() {
  if ! is_root; then
    say "not root: no system packages and no CRIU are installed, so sessions run as plain processes"
    return 0
  fi
  if has_apt; then
    # shellcheck disable=SC2086 # a list of words
    apt_install $packages
  else
    say "no apt here: these are needed for containers, install them by hand: ${packages//[$'\n']/ }"
  fi
}

criu_part() {
  is_root || return 0
  # Says what it does, and nothing when there is nothing to do.
  if ! "$venv/bin/python" -m sessionkeeper.setup criu >>"$log"; then
    if [ "$profile" = test ] && [ "${CI:-}" = true ]; then exit 12; fi
    say "going on without CRIU: sessions run as plain processes"
  fi
}

# The program alone: the package starts a registry for everybody on port 5000.
registry_part() {
  [ "$profile" = test ] && has_apt && ! [ -x "$venv/bin/docker-registry" ] || return 0
  step "fetching a registry for the tests" fetch_registry
}

fetch_registry() {
  rm -rf "$work/registry"
  mkdir -p "$work/registry"
  ( cd "$work/registry" && { apt-get -q download docker-registry ||
      { is_root && apt_quietly update && apt-get -q download docker-registry; }; } &&
    dpkg-deb -x docker-registry_*.deb . && cp usr/bin/docker-registry "$OLDPWD/$venv/bin/" )
}

mkdir -p "$work" || die "$PWD cannot be written" "run it as the user this checkout belongs to"
exec 9>"$work/lock"
flock -n 9 || { say "another setup of this checkout is under way, waiting for it"; flock 9; }
: >"$log"
system_part
python_part
registry_part
criu_part
