#!/usr/bin/env bash
# Run a command of this project on the TPU chips of this host, or of every host of a slice.
#
#   tpu/run.sh erel doctor
#   EREL_COORDINATOR=auto tpu/run.sh python -m erel_jax.launch --check     on every host of a slice
#
# Every setting can be overridden from outside: what is set already is kept.
set -euo pipefail

if [ $# -eq 0 ]; then
    echo "usage: $0 COMMAND [ARGUMENT...], for example: $0 erel doctor" >&2
    exit 2
fi

# Stop when no TPU comes up instead of running for hours on the CPU; cpu stays available for host arrays.
export JAX_PLATFORMS="${JAX_PLATFORMS:-tpu,cpu}"

flags=(
    # Overlap parameter gathers (fsdp rules) with the products that use them.
    --xla_tpu_enable_async_collective_fusion=true
    --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
    # Let collectives run beside the matrix unit instead of between its steps.
    --xla_tpu_overlap_compute_collective_tc=true
)
export LIBTPU_INIT_ARGS="${flags[*]} ${LIBTPU_INIT_ARGS:-}"

exec "$@"
