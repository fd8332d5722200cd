#!/usr/bin/env bash
# Run a command of this project on NVIDIA GPUs.
#
#   gpu/run.sh erel doctor                                  one process, all GPUs of this host
#   gpu/run.sh python -m erel_jax.launch --check            the same after joining other hosts (see README.md)
#
# Every setting can be overridden from outside: what is set already is kept.
set -euo pipefail

if [ $# -eq 0 ]; then
    echo "usage: $0 COMMAND [ARGUMENT...], for example: $0 erel doctor" >&2
    exit 2
fi

# Stop when no GPU comes up instead of running for hours on the CPU; cpu stays available for host arrays.
export JAX_PLATFORMS="${JAX_PLATFORMS:-cuda,cpu}"

# Take 90 % of the memory at start instead of 75 %: the processes of erel bench run one after another, so nothing else
# shares the GPU. Set XLA_PYTHON_CLIENT_PREALLOCATE=false on a shared GPU (slower, fragments).
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-.90}"

flags=(
    # Start collectives early and finish them late, so that gradient sums and parameter gathers overlap with products.
    --xla_gpu_enable_latency_hiding_scheduler=true
    # Join the many small all-reduces of adapters (one per layer and matrix) into few large ones: the link's latency is
    # what they cost. The trainable tree of an adapter run is a few MB, far below this.
    --xla_gpu_all_reduce_combine_threshold_bytes=134217728
)
export XLA_FLAGS="${flags[*]} ${XLA_FLAGS:-}"

exec "$@"
