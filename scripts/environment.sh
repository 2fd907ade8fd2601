#!/usr/bin/env bash
# Make the virtual environment and the native table for this checkout; called by every `make` target that needs them.
#
#   scripts/environment.sh packages   create $VENV and install the packages that constraints.txt pins
#   scripts/environment.sh native     build csrc/ and put the module into src/headrace/store/
#
# It installs nothing outside the checkout. Environment: VENV (default .venv), PYTHON (default: the first 3.11+ found).
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
LOG=build/setup.log
mkdir -p build

say() { printf '%s\n' "$*" >&2; }
fail() { say "headrace: $*"; exit 1; }

find_python() {
  local candidate
  # 3.11 first: constraints.txt was made with it, so every pinned package has a wheel for it.
  for candidate in ${PYTHON:-} python3.11 python3 python3.12 python3.13 python3.14; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  fail "no Python 3.11 or newer found. Install one (Debian: apt-get install python3 python3-venv), or set PYTHON=/path/to/python3."
}

run_logged() {
  if ! "$@" >>"$LOG" 2>&1; then
    tail -n 25 "$LOG" >&2
    return 1
  fi
}

create_venv() {
  local python=$1
  "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    fail "$python cannot create virtual environments (ensurepip is missing). Debian: apt-get install python3-venv; then run make again."
  say "headrace: creating $VENV with $("$python" --version)"
  rm -rf "$VENV"
  run_logged "$python" -m venv "$VENV" || fail "could not create $VENV (log: $LOG)"
}

# Whether $VENV works and was made here: its commands hold the absolute path, so a moved checkout needs a new one.
usable() {
  "$VENV/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 &&
    grep -qsF "$(cd "$VENV" && pwd)/bin/python" "$VENV/bin/pip"
}

# PyPI's default torch for Linux brings several GB of CUDA libraries that a CPU machine never uses: take the CPU build
# from wherever pip is configured to look (PIP_EXTRA_INDEX_URL adds a place), else say so and take the default.
install_torch() {
  local version
  version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' constraints.txt)
  if "$VENV/bin/python" -c "import sys; from importlib.metadata import version as v; sys.exit(v('torch').split('+')[0] != '$version')" 2>/dev/null; then
    return
  fi
  if [ "$(uname -s)" = Linux ] && [ "${HEADRACE_TORCH:-cpu}" = cpu ]; then
    say "headrace: installing torch $version (CPU build)"
    "$VENV/bin/python" -m pip install -q -c constraints.txt "torch==$version+cpu" >>"$LOG" 2>&1 && return
    say "headrace: no CPU build of torch $version is where pip looks; installing the default build, which is much larger"
  fi
  run_logged "$VENV/bin/python" -m pip install -c constraints.txt "torch==$version" || no_network
}

no_network() {
  fail "pip could not install the packages (the last lines of $LOG are above). Is the network, the proxy or the package index reachable? Run make again to go on."
}

packages() {
  local python stamp
  python=$(find_python)
  stamp="$VENV/.headrace-$(cat pyproject.toml constraints.txt scripts/environment.sh | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read() + (sys.version + sys.argv[1]).encode()).hexdigest()[:16])' "$PWD")"
  [ -e "$stamp" ] && return
  : >"$LOG"
  usable || create_venv "$python"
  rm -f "$VENV"/.headrace-*
  install_torch
  say "headrace: installing packages (log: $LOG)"
  run_logged "$VENV/bin/python" -m pip install -c constraints.txt scikit-build-core nanobind || no_network
  # Editable and without CMake: the module is built by `native` below, where the C++ tests are built too.
  run_logged "$VENV/bin/python" -m pip install -c constraints.txt --no-build-isolation \
    --config-settings wheel.cmake=false --config-settings editable.mode=inplace -e ".[dev]" || no_network
  touch "$stamp"
}

native() {
  local python="$VENV/bin/python" cmake generator=()
  if ! command -v "${CXX:-c++}" >/dev/null 2>&1 && ! command -v g++ >/dev/null 2>&1; then
    say "headrace: no C++ compiler found: going on with the reference table in pure Python, which is much slower (Debian: apt-get install g++)"
    return
  fi
  if ! "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'; then
    say "headrace: Python.h not found: going on with the reference table in pure Python, which is much slower (Debian: apt-get install python3-dev)"
    return
  fi
  cmake=$(command -v cmake || true)
  if [ -z "$cmake" ]; then
    [ -x "$VENV/bin/cmake" ] || run_logged "$python" -m pip install cmake ninja || no_network
    cmake=$VENV/bin/cmake
  fi
  if command -v ninja >/dev/null 2>&1; then generator=(-G Ninja); elif [ -x "$VENV/bin/ninja" ]; then
    generator=(-G Ninja -DCMAKE_MAKE_PROGRAM="$PWD/$VENV/bin/ninja")
  fi
  # A cache made by another Python or another checkout would silently build for that one.
  if ! grep -qs "^# headrace: $PWD $("$python" -c 'import sys; print(sys.version.split()[0])')$" build/native/made-for; then
    rm -rf build/native
  fi
  [ -e build/native/build.ninja ] || [ -e build/native/Makefile ] || say "headrace: building the native table"
  run_logged "$cmake" -S . -B build/native "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DHEADRACE_TESTS=ON \
    -DPython_EXECUTABLE="$PWD/$python" || fail "the native table could not be configured (log: $LOG)"
  run_logged "$cmake" --build build/native --parallel 2 || fail "the native table could not be built (log: $LOG)"
  run_logged "$cmake" --install build/native --prefix src --component headrace || fail "the native table could not be installed (log: $LOG)"
  printf '# headrace: %s %s\n' "$PWD" "$("$python" -c 'import sys; print(sys.version.split()[0])')" >build/native/made-for
}

case "${1:-}" in
  packages) packages ;;
  native) native ;;
  *) fail "usage: scripts/environment.sh packages|native" ;;
esac
