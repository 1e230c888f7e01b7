#!/usr/bin/env bash
# Checks and times rtda_jax against PyTorch on this machine's accelerator, and writes
# gpu.json and gpu.md into a folder:
#
#     benchmarks/gpu.sh OUT                # one GPU, at most eight minutes, nothing to download
#     benchmarks/gpu.sh OUT --toy          # every line at toy size, on a CPU too
#
# Needs jax, flax, optax, orbax-checkpoint, ml-collections and, for the comparison, torch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m benchmarks.gpu.main "$@"
