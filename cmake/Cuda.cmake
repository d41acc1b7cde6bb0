# The kernels for NVIDIA GPUs: compiled wherever nvcc is, part of Mezzo where libtorch's CUDA half is linked
# (MEZZO_CUDA). mezzo_gpu_sources(kernels SOURCES a.cu b.cpp) adds them to a room.

set(MEZZO_CUDA_ARCHITECTURES "75-real;80-real;90" CACHE STRING
    "GPUs to compile for: by default Turing, Ampere, Hopper, and PTX for later ones")

find_program(MEZZO_NVCC nvcc HINTS ENV CUDA_HOME /usr/local/cuda PATH_SUFFIXES bin)
set(MEZZO_COMPILES_CUDA OFF)
if(MEZZO_NVCC AND NOT MEZZO_CUDA STREQUAL "OFF" AND (PROJECT_IS_TOP_LEVEL OR MEZZO_TORCH_LINKS_CUDA))
  set(MEZZO_COMPILES_CUDA ON)
endif()
if(MEZZO_TORCH_LINKS_CUDA AND NOT MEZZO_NVCC)
  message(WARNING "Mezzo: libtorch's CUDA half is linked, but nvcc is not found: GPUs take libtorch's own ops. "
                  "Install the CUDA toolkit, or set CUDA_HOME.")
endif()

if(MEZZO_COMPILES_CUDA)
  set(CMAKE_CUDA_COMPILER ${MEZZO_NVCC})
  set(CMAKE_CUDA_ARCHITECTURES ${MEZZO_CUDA_ARCHITECTURES})
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # an older CMake does not know that nvcc has C++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  endif()
  find_package(CUDAToolkit REQUIRED)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  add_library(mezzo_cuda_options INTERFACE)
  target_include_directories(mezzo_cuda_options INTERFACE ${PROJECT_SOURCE_DIR})
  target_include_directories(mezzo_cuda_options SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
  target_compile_options(mezzo_cuda_options INTERFACE
    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-fPIC;--expt-relaxed-constexpr;$<$<BOOL:${PROJECT_IS_TOP_LEVEL}>:-Werror=all-warnings>>")
endif()

# The sources become the target mezzo_<room>_gpu, and, in the CUDA flavour, part of the room, which then knows
# MEZZO_HAS_CUDA (mezzo/kernels/cuda/flavour.h).
function(mezzo_gpu_sources ROOM)
  cmake_parse_arguments(ARG "" "" "SOURCES" ${ARGN})
  if(NOT MEZZO_COMPILES_CUDA)
    return()
  endif()
  add_library(mezzo_${ROOM}_gpu OBJECT ${ARG_SOURCES})
  target_link_libraries(mezzo_${ROOM}_gpu PRIVATE mezzo_cuda_options)
  target_include_directories(mezzo_${ROOM}_gpu SYSTEM PRIVATE $<TARGET_PROPERTY:mezzo::torch,INTERFACE_INCLUDE_DIRECTORIES>)
  # For C++ alone: the options of the other sources.
  target_compile_options(mezzo_${ROOM}_gpu PRIVATE
    "$<$<COMPILE_LANGUAGE:CXX>:$<TARGET_PROPERTY:mezzo_options,INTERFACE_COMPILE_OPTIONS>>")
  target_compile_definitions(mezzo_${ROOM}_gpu PRIVATE FMT_HEADER_ONLY MEZZO_HAS_CUDA)
  if(MEZZO_TORCH_LINKS_CUDA)
    mezzo_add_gpu_objects(mezzo_${ROOM} ${ROOM})
    mezzo_knows_flavour(mezzo_${ROOM})
  endif()
endfunction()

# To a library made of a room's objects, which $<TARGET_OBJECTS:> of the room does not hold.
function(mezzo_add_gpu_objects TARGET ROOM)
  if(MEZZO_COMPILES_CUDA AND MEZZO_TORCH_LINKS_CUDA)
    target_sources(${TARGET} PRIVATE $<TARGET_OBJECTS:mezzo_${ROOM}_gpu>)
    target_link_libraries(${TARGET} PUBLIC CUDA::cudart_static)
  endif()
endfunction()

# The target's sources may ask kHasCuda.
function(mezzo_knows_flavour TARGET)
  if(MEZZO_COMPILES_CUDA AND MEZZO_TORCH_LINKS_CUDA)
    target_compile_definitions(${TARGET} PRIVATE MEZZO_HAS_CUDA)
  endif()
endfunction()
