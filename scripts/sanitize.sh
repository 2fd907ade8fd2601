#!/usr/bin/env bash
# Run the C++ tests under the sanitizers, in build directories of their own under build/sanitize/.
#
#   scripts/sanitize.sh short   what shares memory between threads under thread, what reads files and moves cells under
#                               address,undefined
#   scripts/sanitize.sh full    every test under both, and the fuzzer of the file reader with a million inputs
#
# Environment: VENV (default .venv), whose cmake and ninja are used where the system has none; CXX; JOBS (default 2);
# BUILD (default build/sanitize).
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
JOBS=${JOBS:-2}
BUILD=${BUILD:-build/sanitize}
FORM=${1:-short}
case "$FORM" in short | full) ;; *) echo "usage: scripts/sanitize.sh short|full" >&2 && exit 2 ;; esac

say() { printf '%s\n' "headrace: $*" >&2; }

tool() { command -v "$1" || { [ -x "$VENV/bin/$1" ] && echo "$PWD/$VENV/bin/$1"; } || true; }

CXX=${CXX:-$(command -v c++ || command -v g++ || true)}
cmake=$(tool cmake)
ctest=$(tool ctest)
ninja=$(tool ninja)
if [ -z "$CXX" ] || [ -z "$cmake" ] || [ -z "$ctest" ]; then
  say "no C++ compiler or no cmake: the tests under sanitizers are skipped"
  exit 0
fi
export CXX
generator=()
[ -z "$ninja" ] || generator=(-G Ninja "-DCMAKE_MAKE_PROGRAM=$ninja")

# Whether programs with these sanitizers are built and run here; with a thread, so that all of the runtime is there.
works() {
  local folder status=0
  folder=$(mktemp -d)
  printf '#include <thread>\nint main() { std::thread([] {}).join(); }\n' >"$folder/probe.cc"
  { "$CXX" -std=c++20 -pthread "-fsanitize=$1" "$folder/probe.cc" -o "$folder/probe" && "$folder/probe"; } >/dev/null 2>&1 || status=1
  rm -rf "$folder"
  return "$status"
}

build() { # sanitizers, folder, optimisation, targets
  local log="$2/build.log"
  mkdir -p "$2"
  if ! {
    "$cmake" -S . -B "$2" "${generator[@]}" -DHEADRACE_PYTHON=OFF -DHEADRACE_TESTS=ON \
      "-DHEADRACE_SANITIZE=$1" "-DHEADRACE_SANITIZE_LEVEL=$3" &&
      "$cmake" --build "$2" --parallel "$JOBS" --target "${@:4}"
  } >"$log" 2>&1; then
    tail -n 25 "$log" >&2
    say "the tests could not be built with -fsanitize=$1 (log: $log)"
    return 1
  fi
}

run() { # sanitizers, folder, tests as a regular expression
  say "C++ tests with -fsanitize=$1"
  "$ctest" --test-dir "$2" -R "$3" --output-on-failure --no-tests=error -j "$JOBS"
}

check() { # sanitizers, name, optimisation of the short form, targets of the short form
  local folder="$BUILD/$2-$FORM" expression
  if ! works "$1"; then
    say "$CXX builds or runs no programs with -fsanitize=$1 here: those tests are skipped"
    return
  fi
  if [ "$FORM" = full ]; then
    build "$1" "$folder" -O1 all && run "$1" "$folder" .
  else
    expression=$(IFS='|' && echo "${*:4}")
    build "$1" "$folder" "$3" "${@:4}" && run "$1" "$folder" "^($expression)\$"
  fi
}

export TSAN_OPTIONS="halt_on_error=1 ${TSAN_OPTIONS:-}"
check thread thread -O1 shared_space_test table_capture_test table_packed_test table_table_threads_test table_threads_test
# Not optimised: that builds in half the time.
check address,undefined address -O0 file_reader_fuzz score_rank_body_test shared_space_test table_capture_test table_packed_test table_row_store_test table_table_test
if [ "$FORM" = full ] && [ -x $BUILD/address-full/file_reader_fuzz ]; then
  $BUILD/address-full/file_reader_fuzz 1000000
fi
