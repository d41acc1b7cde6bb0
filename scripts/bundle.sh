#!/usr/bin/env bash
# Packs the CUDA flavour for a machine with a GPU and PyTorch but without a compiler or a network: programs, tests and
# the benchmark, in one archive.
#
#   scripts/bundle.sh [BUILD [ARCHIVE]]        build/cuda, build/mezzo-cuda.tar.gz
#
# TOKENS=FILE  a token file to go with them
#
# There: tar xf mezzo-cuda.tar.gz && mezzo-cuda/run bin/mezzo info
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build/cuda}
archive=${2:-build/mezzo-cuda.tar.gz}
tests=(base_test kernels_test models_test train_test)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
folder=$stage/mezzo-cuda
mkdir -p "$folder"/{bin,lib,bench}

for program in mezzo gpu_pieces_bench "${tests[@]}"; do
  [ -x "$build/bin/$program" ] || { echo "bundle: $build/bin/$program is not built; run make bundle" >&2; exit 1; }
  strip -o "$folder/bin/$program" "$build/bin/$program"
done
# What the programs need beside libtorch and the C++ runtime, which the other machine's torch brings or has.
ldd "$build/bin/mezzo" | awk '$3 ~ /libpcre2/ {print $3}' | xargs -I{} cp -L {} "$folder/lib"
cp -r bench/gpu.sh bench/gpu.py bench/peers "$folder/bench"
cp scripts/gpu_checks.sh "$folder"
cat >"$folder/run" <<'RUN'
#!/usr/bin/env bash
# Runs a program of this folder on the libtorch that python3 imports.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
torch=$("${PYTHON:-python3}" -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])') ||
  { echo "run: python3 has no torch; set PYTHON to one that has 2.11" >&2; exit 1; }
export LD_LIBRARY_PATH="$torch/lib:$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
program=$1
shift
exec "$here/$program" "$@"
RUN
chmod +x "$folder/run"
[ -z "${TOKENS:-}" ] || cp -r "$TOKENS" "$folder/tokens"
mkdir -p "$(dirname "$archive")"
tar -C "$stage" -czf "$archive" mezzo-cuda
echo "$archive: $(du -h "$archive" | cut -f1)"
