#!/usr/bin/env bash
# PyTorch's AMP, torch.compile's and Mezzo's training step on this machine's GPU; bench/gpu.py says what is measured.
#
#   bench/gpu.sh                                      all rows
#   bench/gpu.sh --only 124M,nano --rounds 3          some
#
# PYTHON=.venv-peers/bin/python  whose PyTorch is measured; where that is not there, python3
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv-peers/bin/python}
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
  echo "gpu.sh: $python has no PyTorch that sees a GPU here. Hint: scripts/setup.sh peers, or PYTHON=<one that does>" >&2
  exit 1
}
exec "$python" bench/gpu.py "$@"
