# libtorch out of a torch wheel (pip's), as the target mezzo_torch.
#
# Looked for in this order: MEZZO_TORCH_ROOT (the folder that holds torch's include/ and lib/), then
# this project's .venv, then the torch that python3 imports. The wheel's own TorchConfig.cmake is not
# used: for a CUDA wheel it wants the CUDA toolkit even where only the CPU half is linked.

set(MEZZO_TORCH_ROOT "" CACHE PATH "The torch package's folder (has include/ and lib/)")
set(_root "${MEZZO_TORCH_ROOT}")
if(NOT _root)
  file(GLOB _root ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch)
endif()
if(NOT _root)
  execute_process(
    COMMAND python3 -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE _root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT EXISTS "${_root}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "No libtorch found (looked in '${_root}'). Run scripts/setup.sh, which makes "
                      ".venv with the pinned torch wheel, or pass -DMEZZO_TORCH_ROOT=<.../site-packages/torch>.")
endif()

file(STRINGS ${_root}/version.py _version_line REGEX "^__version__")
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" MEZZO_TORCH_VERSION "${_version_line}")
if(MEZZO_TORCH_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "torch ${MEZZO_TORCH_VERSION} in ${_root} is too old: Mezzo needs 2.11 or newer.")
endif()

# The CUDA half needs NVIDIA's packages at run time; cuDNN is the one that a CPU-only set-up leaves out.
set(MEZZO_WITH_CUDA OFF)
if(MEZZO_CUDA STREQUAL "ON" OR (MEZZO_CUDA STREQUAL "AUTO" AND EXISTS "${_root}/../nvidia/cudnn"))
  set(MEZZO_WITH_CUDA ON)
endif()
set(MEZZO_TORCH_PACKAGE ${_root})
message(STATUS "libtorch ${MEZZO_TORCH_VERSION} in ${_root}, CUDA half linked: ${MEZZO_WITH_CUDA}")

add_library(mezzo_torch INTERFACE)
target_include_directories(mezzo_torch SYSTEM INTERFACE ${_root}/include
                                                        ${_root}/include/torch/csrc/api/include)
target_link_libraries(mezzo_torch INTERFACE ${_root}/lib/libtorch_cpu.so ${_root}/lib/libc10.so)
if(MEZZO_WITH_CUDA)
  # Nothing names a symbol of the CUDA half; loading it is what registers its kernels.
  target_link_libraries(mezzo_torch INTERFACE -Wl,--no-as-needed ${_root}/lib/libtorch_cuda.so
                                              ${_root}/lib/libc10_cuda.so -Wl,--as-needed)
endif()
# at::parallel_for is an inline OpenMP loop: it must run on the OpenMP runtime that libtorch itself carries.
target_compile_options(mezzo_torch INTERFACE -fopenmp)
target_link_libraries(mezzo_torch INTERFACE ${_root}/lib/libgomp.so.1)
# libtorch finds NVIDIA's libraries and its own OpenMP runtime by its own RPATH at run time; the link step need not.
target_link_options(mezzo_torch INTERFACE -Wl,--allow-shlib-undefined)
# The wheel carries a newer fmt than Debian, in the same include folder as torch: use that one.
target_compile_definitions(mezzo_torch INTERFACE FMT_HEADER_ONLY)
