#!/usr/bin/env bash
# The checks that need a GPU, from an unpacked bundle (scripts/bundle.sh): all tests that have a GPU's side, then the
# kernels' under compute-sanitizer.
#
#   mezzo-cuda/gpu_checks.sh                 tests, then memcheck, racecheck, initcheck and synccheck of the kernels
#   mezzo-cuda/gpu_checks.sh quick           tests alone
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
failed=0

check() {
  local name=$1
  shift
  echo "== $name"
  timeout "${LIMIT:-300}" "$@" || { echo "== FAILED: $name"; failed=1; }
}

"$here/run" bin/mezzo info | grep -q '^GPU ' || { echo "gpu_checks: mezzo info finds no usable GPU" >&2; exit 1; }
on_gpu='*cuda*:*Cuda*:*OnGpu*:*Twin*'
for program in base_test kernels_test models_test train_test; do
  check "$program" "$here/run" "bin/$program" --gtest_filter="$on_gpu" --gtest_brief=1
done
if [ "${1:-}" != quick ]; then
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer) ||
    { echo "gpu_checks: no compute-sanitizer; it comes with the CUDA toolkit" >&2; exit 1; }
  for tool in memcheck racecheck initcheck synccheck; do
    # libtorch's own kernels are not ours to check: the filter names those of the namespace mezzo. Only initcheck has to
    # see what libtorch's kernels have written. The twins' tests run each of Mezzo's once; all of the tests would take an
    # hour there. memcheck and initcheck see the ends and the first writes of blocks that CUDA gives out, which
    # libtorch's cache would hide.
    uncached=() ours=(--kernel-regex kns=mezzo)
    case $tool in memcheck | initcheck) uncached=(env PYTORCH_NO_CUDA_MEMORY_CACHING=1) ;; esac
    [ $tool != initcheck ] || ours=()
    check "compute-sanitizer $tool" "${uncached[@]}" "$sanitizer" --tool $tool "${ours[@]}" --error-exitcode 9 \
      "$here/run" bin/kernels_test --gtest_filter="${SANITIZED:-*Twin*}" --gtest_brief=1
  done
fi
exit $failed
