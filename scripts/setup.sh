#!/usr/bin/env bash
# Brings a machine to where Mezzo builds: Debian packages, .venv with the torch wheel. Does only what is missing.
#
#   scripts/setup.sh            what `mezzo` itself needs
#   scripts/setup.sh tests      and what its tests need
#   scripts/setup.sh docs       what the reference is made with
#   scripts/setup.sh peers      and .venv-peers, Python PyTorch with all it imports, to compare with (2.5 GB)
#
# TORCH=2.11.0  the wheel's version      CUDA=1  with NVIDIA's packages (by itself where nvidia-smi works)
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=${TORCH:-2.11.0}
purpose=${1:-build}

fail() {
  echo "setup: $*" >&2
  exit 1
}

apt_install() {
  local sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo)
  "${sudo[@]}" apt-get update -qq && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"
}

need_packages() {
  local packages=(g++ cmake ninja-build pkg-config python3 libcli11-dev nlohmann-json3-dev libtomlplusplus-dev libpcre2-dev
                  libxxhash-dev libprotozero-dev libjs-chart.js)
  [ "$purpose" = tests ] && packages+=(libgtest-dev libgmock-dev)
  python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
  [ "$purpose" = docs ] && packages=(doxygen)
  command -v dpkg-query >/dev/null || fail "this is no Debian or Ubuntu machine; install what these packages hold by" \
    "your system's means and build with cmake --preset release: ${packages[*]}"

  local missing=()
  for package in "${packages[@]}"; do
    case $package in  # a tool from elsewhere is as good
      g++ | cmake | pkg-config | python3) command -v "$package" >/dev/null && continue ;;
      ninja-build) command -v ninja >/dev/null && continue ;;
    esac
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return

  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
    fail "missing Debian packages, and no right to install them; ask an administrator for: apt-get install ${missing[*]}"
  echo "setup: installing ${missing[*]}"
  local said
  said=$(apt_install "${missing[@]}" 2>&1) || {
    tail -n 5 <<<"$said" >&2
    fail "could not install ${missing[*]} (offline, or no rights); get them with: apt-get install ${missing[*]}"
  }
}

# The tests open report.html in it. Not every distribution has it as a package; asked for once, they do without.
want_chromium() {
  local stamp=build/.no-chromium
  command -v chromium >/dev/null && return
  [ ! -e $stamp ] || return 0
  echo "setup: installing chromium"
  apt_install chromium >/dev/null 2>&1 || {
    echo "setup: no chromium to be had; the tests of report.html are skipped"
    mkdir -p build && touch $stamp
  }
}

# make_venv FOLDER STAMP PIP-ARGUMENTS...: a virtual environment that holds just what the stamp names.
make_venv() {
  local folder=$1 stamp=$2
  shift 2
  [ "$(cat "$folder/.mezzo-stamp" 2>/dev/null)" = "$stamp" ] && return
  echo "setup: making $folder ($stamp)"
  rm -rf "$folder.before"
  [ ! -e "$folder" ] || mv "$folder" "$folder.before"  # a virtual environment does not work where it was not made
  python3 -m venv "$folder" || fail "python3 -m venv failed; get it with: apt-get install python3-venv"
  "$folder/bin/pip" install --quiet --disable-pip-version-check "$@" 2>"$folder/pip.log" || {
    tail -n 3 "$folder/pip.log" >&2
    rm -rf "$folder"
    [ ! -e "$folder.before" ] || mv "$folder.before" "$folder"
    fail "could not fetch $stamp from PyPI (offline?); connect and run this again, or point PIP_FIND_LINKS at a" \
      "folder that holds the wheels"
  }
  echo "$stamp" >"$folder/.mezzo-stamp"
  rm -rf "$folder.before"
}

need_torch() {
  local with_cuda="torch $TORCH with CUDA"
  if [ "${CUDA:-0}" = 1 ] || { [ -z "${CUDA:-}" ] && nvidia-smi -L >/dev/null 2>&1; }; then
    make_venv .venv "$with_cuda" "torch==$TORCH"
  elif [ "$(cat .venv/.mezzo-stamp 2>/dev/null)" != "$with_cuda" ]; then  # which serves a CPU too
    # libtorch_cpu.so of the PyPI wheel asks for these two of NVIDIA's libraries, and for no other.
    make_venv .venv "torch $TORCH for the CPU" --no-deps "torch==$TORCH" "nvidia-cuda-runtime~=13.0" \
      "nvidia-cuda-cupti~=13.0"
  fi
}

need_cmake() {
  local version
  version=$(cmake --version | sed -n '1s/[^0-9]*//p')
  dpkg --compare-versions "$version" ge 3.25 ||
    fail "cmake must be 3.25 or newer, but is $version; get one with: pip install cmake"
}

need_packages
[ "$purpose" != docs ] || exit 0
need_cmake
need_torch
[ "$purpose" != tests ] || want_chromium
[ "$purpose" != tests ] || make_venv .venv-tests "tensorboard 2.20" "tensorboard==2.20.*"
[ "$purpose" != peers ] ||
  make_venv .venv-peers "torch $TORCH for comparison" "torch==$TORCH" -r tests/reference/requirements.txt
