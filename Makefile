# The newcomer's door. CMake does the work: cmake --preset release.
#
#   make train                              from nothing to a trained model
#   make train ARGS="--steps 50 --precision amp-fp16"
#   make compare                            what each precision costs and gains on this machine
#   make test                               build and run all tests
#   make bench                              time a training step against Python PyTorch
#   make bench-library                      time what autocast and the optimizers themselves cost
#   make bundle                             the CUDA flavour in one archive, for a machine with a GPU and no compiler
#   make sanitize                           run the tests under the sanitizers (half an hour)
#   make docs                               the library's reference, from its headers
#
# TORCH=2.11.0 chooses the wheel; CUDA=1 takes NVIDIA's packages too.

ARGS  ?=
TORCH ?= 2.11.0
export TORCH
export CUDA

BUILD := build/release
MEZZO := $(BUILD)/bin/mezzo

.PHONY: train compare test sanitize bench bench-library bundle docs build format clean

train: build
	@$(MEZZO) train $(ARGS)

compare: build
	@$(MEZZO) compare $(ARGS)

build:
	@scripts/setup.sh
	@cmp -s .venv/.mezzo-stamp $(BUILD)/torch.stamp || \
	  { cmake --preset release $$(test -f $(BUILD)/build.ninja || echo -DMEZZO_TESTS=OFF) && \
	    cp .venv/.mezzo-stamp $(BUILD)/torch.stamp; }
	@cmake --build --preset release --target mezzo

test:
	@scripts/setup.sh tests
	@cmake --preset release -DMEZZO_TESTS=ON
	@cmake --build --preset release
	@ctest --preset release

sanitize:
	@scripts/setup.sh tests
	@for preset in asan tsan; do \
	  cmake --preset $$preset && cmake --build --preset $$preset && ctest --preset $$preset || exit 1; \
	done

bench: build
	@scripts/setup.sh peers
	@.venv-peers/bin/python bench/step.py $(ARGS)

bench-library: build
	@cmake --build --preset release --target library_bench
	@$(BUILD)/bin/library_bench

bundle:
	@scripts/setup.sh tests
	@cmake -S . -B build/cuda -G Ninja -DCMAKE_BUILD_TYPE=Release -DMEZZO_CUDA=ON -DMEZZO_TESTS=ON
	@cmake --build build/cuda --target mezzo gpu_pieces_bench base_test kernels_test models_test train_test
	@scripts/bundle.sh build/cuda build/mezzo-cuda.tar.gz

docs:
	@scripts/setup.sh docs
	@{ cat docs/Doxyfile; sed -n 's/^#include "\(.*\)"/INPUT += \1/p' mezzo/mezzo.h; } | doxygen -
	@echo "build/docs/html/index.html"

format:
	@git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format -i

clean:
	rm -rf build
