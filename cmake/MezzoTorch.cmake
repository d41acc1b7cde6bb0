# The libtorch that Mezzo stands on, as the target mezzo::torch. It serves Mezzo's own build and, installed beside
# MezzoConfig.cmake, the build of whoever uses Mezzo.
#
# Where find_package(Torch) has run, its libtorch is taken. Otherwise the folder that holds torch's include/ and lib/
# is looked for in MEZZO_TORCH_ROOT, then MEZZO_TORCH_HINTS, then the torch that python3 imports. A wheel's own
# TorchConfig.cmake is not needed: it wants the CUDA toolkit even where only the CPU half is linked.
#
# Where there is none that can be used, MEZZO_TORCH_PROBLEM says why: Mezzo's own build stops, find_package() fails.

set(MEZZO_TORCH_PROBLEM "")

set(MEZZO_TORCH_ROOT "" CACHE PATH "The torch package's folder (has include/ and lib/)")
set(MEZZO_CUDA "AUTO" CACHE STRING "Link libtorch's CUDA half: AUTO (if the wheel has what it needs), ON, OFF")
set_property(CACHE MEZZO_CUDA PROPERTY STRINGS AUTO ON OFF)

if(TARGET torch)
  set(_mezzo_root "${TORCH_INSTALL_PREFIX}")
elseif(MEZZO_TORCH_ROOT)
  set(_mezzo_root "${MEZZO_TORCH_ROOT}")
else()
  set(_mezzo_root "")
  foreach(_mezzo_hint IN LISTS MEZZO_TORCH_HINTS)
    if(NOT _mezzo_root AND EXISTS "${_mezzo_hint}/lib/libtorch_cpu.so")
      set(_mezzo_root "${_mezzo_hint}")
    endif()
  endforeach()
  if(NOT _mezzo_root)
    execute_process(
      COMMAND python3 -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
      OUTPUT_VARIABLE _mezzo_root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()
if(NOT EXISTS "${_mezzo_root}/lib/libtorch_cpu.so")
  string(CONCAT MEZZO_TORCH_PROBLEM
    "Mezzo needs libtorch, and found none in '${_mezzo_root}'. Pass -DMEZZO_TORCH_ROOT=<.../site-packages/torch "
    "or the unpacked libtorch>, or call find_package(Torch) first. In Mezzo's own folder, "
    "scripts/setup.sh fetches the pinned wheel into .venv.")
  return()
endif()

set(_mezzo_version_header ${_mezzo_root}/include/torch/headeronly/version.h)
set(MEZZO_TORCH_VERSION 0)
if(EXISTS ${_mezzo_version_header})
  file(STRINGS ${_mezzo_version_header} _mezzo_lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
  string(REGEX MATCHALL "[0-9]+" _mezzo_numbers "${_mezzo_lines}")
  list(JOIN _mezzo_numbers "." MEZZO_TORCH_VERSION)
endif()
if(MEZZO_TORCH_VERSION VERSION_LESS 2.11)
  set(MEZZO_TORCH_PROBLEM "The torch in ${_mezzo_root} (${MEZZO_TORCH_VERSION}) is too old: Mezzo needs 2.11 or newer.")
  return()
endif()
set(MEZZO_TORCH_PACKAGE ${_mezzo_root})

if(NOT TARGET mezzo::torch)
  add_library(mezzo::torch INTERFACE IMPORTED GLOBAL)
  if(TARGET torch)
    target_link_libraries(mezzo::torch INTERFACE torch)
    set(MEZZO_TORCH_LINKS_CUDA OFF)
    if(TORCH_CUDA_LIBRARIES)
      set(MEZZO_TORCH_LINKS_CUDA ON)
    endif()
  else()
    target_include_directories(mezzo::torch SYSTEM INTERFACE ${_mezzo_root}/include
                                                             ${_mezzo_root}/include/torch/csrc/api/include)
    target_link_libraries(mezzo::torch INTERFACE ${_mezzo_root}/lib/libtorch_cpu.so ${_mezzo_root}/lib/libc10.so)
    # libtorch finds NVIDIA's libraries by its own RPATH at run time; the link step need not.
    target_link_options(mezzo::torch INTERFACE -Wl,--allow-shlib-undefined)
    # The CUDA half needs NVIDIA's packages at run time; cuDNN is the one that a CPU-only set-up leaves out.
    set(MEZZO_TORCH_LINKS_CUDA OFF)
    if(MEZZO_CUDA STREQUAL "ON" OR (MEZZO_CUDA STREQUAL "AUTO" AND EXISTS "${_mezzo_root}/../nvidia/cudnn"))
      # Nothing names a symbol of the CUDA half; loading it is what registers its kernels.
      target_link_libraries(mezzo::torch INTERFACE -Wl,--no-as-needed ${_mezzo_root}/lib/libtorch_cuda.so
                                                   ${_mezzo_root}/lib/libc10_cuda.so -Wl,--as-needed)
      set(MEZZO_TORCH_LINKS_CUDA ON)
    endif()
  endif()
  # at::parallel_for is an inline OpenMP loop: it must run on the OpenMP runtime that libtorch itself carries.
  file(GLOB MEZZO_TORCH_OPENMP ${_mezzo_root}/lib/libgomp*.so*)
  if(NOT MEZZO_TORCH_OPENMP)
    set(MEZZO_TORCH_OPENMP libgomp.so)
  endif()
  target_link_libraries(mezzo::torch INTERFACE ${MEZZO_TORCH_OPENMP})
  message(STATUS "Mezzo: libtorch ${MEZZO_TORCH_VERSION} in ${_mezzo_root} (CUDA half linked: ${MEZZO_TORCH_LINKS_CUDA})")
endif()
