# shellcheck shell=bash
# Sourced: `source lib/packages.sh NAME==VERSION...`. Installs packages in an environment of their own, in a temporary
# folder that is removed at the end. Sets `scratch` (the folder) and `python` (its interpreter).

scratch=$(mktemp -d)
broker_pid=""

finish() {
  if test -n "$broker_pid"; then
    kill -KILL "$broker_pid" 2>/dev/null || true
    wait "$broker_pid" 2>/dev/null || true
  fi
  rm -rf "$scratch"
}
trap finish EXIT

python3 -m venv "$scratch/venv"
python="$scratch/venv/bin/python"
"$python" -m pip install --quiet --disable-pip-version-check "$@"
