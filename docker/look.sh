#!/usr/bin/env bash
# Look at this machine and write .env for docker-compose.yml: `make env`, or with answers of your own:
#   make env DATA=/slides GPU=off CUDA=cu128
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "error: $*" >&2; exit 2; }
gpus() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | sort -V | head -1; }

run_as=$(id -u):$(id -g)
# Under a rootless engine the container's root is the caller.
if [[ $(docker info -f '{{.SecurityOptions}}' 2>/dev/null) == *name=rootless* ]]; then run_as=0:0; fi

driver=$(gpus driver_version) || driver=
gpu=${GPU:-off}
if [[ -z ${GPU:-} && -n $driver && $(docker info -f '{{json .Runtimes}}' 2>/dev/null) == *nvidia* ]]; then gpu=on; fi
case $gpu in
    off) files=docker-compose.yml ;;
    on) files=docker-compose.yml:docker/gpu.yml ;;
    *) fail "GPU=$gpu is neither on nor off." ;;
esac

cuda=${CUDA:-cu130}
if [[ -z ${CUDA:-} && -n $driver ]]; then
    capability=$(gpus compute_cap) || capability=0
    # CUDA 13 needs driver 580 and Turing.
    if [[ ${driver%%.*} -lt 580 || ${capability/./} -lt 75 ]]; then cuda=cu128; fi
fi
[ -f "docker/requirements/torch-$cuda.txt" ] || fail "CUDA=$cuda has no locked set: use cu130 or cu128."

# The folder named earlier stays until another is named.
slides=${DATA:-$(sed -n "s/^DATA='\(.*\)'$/\1/p" .env 2>/dev/null || true)}
mkdir -p work/no-slides results/records results/tables
slides=$(realpath -m "${slides:-work/no-slides}")
[ -d "$slides" ] || fail "DATA=$slides is no folder: name the one that holds the slides."

# Every checkout has images and containers of its own: what one built never runs in another.
project=sgcl-bench-$(pwd -P | sha256sum | cut -c 1-8)

{
    echo "# Written by 'make env' for this machine; docker-compose.yml says what the lines mean."
    echo "RUN_AS=$run_as"
    echo "DATA='$slides'"
    echo "CUDA=$cuda"
    echo "COMPOSE_PROJECT_NAME=$project"
    echo "COMPOSE_FILE=$files"
    if [ -n "${PIP_CONFIG_FILE:-}" ]; then echo "PIP_CONFIG_FILE='$(realpath "$PIP_CONFIG_FILE")'"; fi
} >.env
echo ".env: outputs belong to $run_as, slides from $slides, GPU $gpu, $cuda, images $project/*"
