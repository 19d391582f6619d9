#!/usr/bin/env bash
# Resolve the pinned sets again: `make lock`. dev holds everything; the image sets take their versions from it.
set -euo pipefail
cd "$(dirname "$0")"
for cuda in cu130 cu128; do
    compile() { # OUT CONSTRAINT INPUTS...
        local out=$1 constraint=$2; shift 2
        uv pip compile -q --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
            --no-header --no-emit-index-url --no-annotate ${constraint:+-c "$constraint"} "$@" -o "$out"
    }
    compile "dev-$cuda.txt" "" "torch-$cuda.in" pretrain.in detection.in segmentation.in dev.in
    compile "torch-$cuda.txt" "dev-$cuda.txt" "torch-$cuda.in"
    compile "pretrain-$cuda.txt" "dev-$cuda.txt" "torch-$cuda.in" pretrain.in
    compile "transfer-det-$cuda.txt" "dev-$cuda.txt" "torch-$cuda.in" pretrain.in detection.in
    compile "transfer-seg-$cuda.txt" "dev-$cuda.txt" "torch-$cuda.in" pretrain.in segmentation.in
done
