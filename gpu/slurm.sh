#!/usr/bin/env bash
# Submit a multi-host GPU run to SLURM: sbatch --nodes=2 gpu/slurm.sh experiments/NAME.py [ARGUMENT...]
#SBATCH --job-name=erel
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
# SIGTERM reaches the processes two minutes before the limit: a run saves its state and ends with 75 (docs/exit_codes.md).
#SBATCH --signal=TERM@120
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?run this through sbatch from the root of the repository}"

# One process per host; JAX reads the hosts and the coordinator from SLURM's variables.
export EREL_COORDINATOR=auto
exec srun --kill-on-bad-exit=1 gpu/run.sh python -m erel_jax.launch "$@"
