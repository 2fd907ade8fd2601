# Sourced by the scripts that install a benchmark's peers into an environment of their own.
#
#   peers_begin FOLDER LOG STAMP_NAME   leave at once if all of it is there, else go on with it, or make a new one
#   install WORDS...                    pip, into it
#   install_torch PACKAGES...           torch as constraints.txt pins it, the CPU build where there is one, and more
#   optional WHAT COMMAND...            a part whose absence makes some figures null; it is tried again the next time
#   required WHAT COMMAND...            a part without which there is nothing to measure
#   peers_end                           note that all of it is there, or fail
#
# Environment: PYTHON (default: $VENV/bin/python, else python3).
PYTHON=${PYTHON:-${VENV:-.venv}/bin/python}
command -v "$PYTHON" >/dev/null 2>&1 || PYTHON=python3
TORCH=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' constraints.txt)
lacking=""

peers_begin() {
  ENV=$1 LOG=$2 STAMP="$1/.$3"
  [ -e "$STAMP" ] && exit 0
  mkdir -p "$(dirname "$ENV")"
  : >"$LOG"
  echo "headrace: installing peers into $ENV (log: $LOG)" >&2
  [ -e "$STAMP.begun" ] && return # some of it was lacking the last time
  rm -rf "$ENV"
  "$PYTHON" -m venv "$ENV"
  touch "$STAMP.begun"
}

install() { "$ENV/bin/python" -m pip install -q "$@" >>"$LOG" 2>&1; }

# The default torch for Linux brings several GB of CUDA libraries; the CPU build is taken from wherever pip looks.
install_torch() { { install "torch==$TORCH+cpu" || install "torch==$TORCH"; } && { [ $# -eq 0 ] || install "torch==$TORCH" "$@"; }; }

optional() {
  local what=$1
  shift
  "$@" && return
  echo "headrace: $what could not be installed; its figures will be null" >&2
  lacking="$lacking $what"
}

required() {
  local what=$1
  shift
  "$@" && return
  tail -n 5 "$LOG" >&2
  rm -rf "$ENV"
  echo "headrace: $what could not be installed; the peers' figures will be null" >&2
  exit 1
}

peers_end() {
  if [ -n "$lacking" ]; then
    echo "headrace: not all of $ENV is there:$lacking" >&2
    exit 1
  fi
  touch "$STAMP"
}
