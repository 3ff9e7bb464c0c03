#!/bin/sh
# Writes the versions and hashes that the image is built from: the newest that pyproject.toml allows.
set -eu
cd "$(dirname "$0")"
pin() {
  name=$1 what=$2
  shift 2
  found=$(uv pip compile -q --python-version 3.13 --python-platform linux --generate-hashes --no-annotate --no-header "$@")
  # shellcheck disable=SC2016 # the backquotes are text
  printf '# Exact versions and hashes of %s (Python 3.13, Linux). Renew with `make constraints`.\n%s\n' \
    "$what" "$found" >"$name.txt"
}
pin constraints "what the image holds" --extra hpc --extra notify ../pyproject.toml
pin constraints-engines "what the image with engines holds" -c constraints.txt --extra hpc --extra notify --extra local ../pyproject.toml
printf '%s\n' 'hatchling>=1.27' 'hatch-fancy-pypi-readme>=25.1' | pin constraints-build "what builds the package" -
