#!/usr/bin/env bash
# Make build/schemathesis/env, where the program lies that tries out servers by their OpenAPI document. Nothing is
# installed into the product's own environment. Run again, it does nothing.
#
# Environment: PYTHON (default: $VENV/bin/python, else python3).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-${VENV:-.venv}/bin/python}
command -v "$PYTHON" >/dev/null 2>&1 || PYTHON=python3
FOLDER=build/schemathesis
VERSION=4.32.5
STAMP="$FOLDER/env/.schemathesis-$VERSION"

[ -e "$STAMP" ] && exit 0
mkdir -p "$FOLDER"
echo "headrace: installing schemathesis $VERSION into $FOLDER/env (log: $FOLDER/setup.log)" >&2
rm -rf "$FOLDER/env"
"$PYTHON" -m venv "$FOLDER/env"
if ! "$FOLDER/env/bin/python" -m pip install -q -c constraints.txt "schemathesis==$VERSION" >"$FOLDER/setup.log" 2>&1; then
  tail -n 5 "$FOLDER/setup.log" >&2
  rm -rf "$FOLDER/env"
  echo "headrace: schemathesis could not be installed; the tests that need it are skipped" >&2
  exit 1
fi
touch "$STAMP"
