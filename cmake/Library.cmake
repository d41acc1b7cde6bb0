# What other projects link: the target mezzo::mezzo, one library out of the rooms that need libtorch alone, and how it
# is installed. Its public headers are those that mezzo/mezzo.h includes.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(_header mezzo/mezzo.h)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${_header})
file(STRINGS ${PROJECT_SOURCE_DIR}/${_header} _public_headers REGEX "^#include \"")
list(TRANSFORM _public_headers REPLACE "^#include \"(.*)\"$" "${PROJECT_SOURCE_DIR}/\\1")

add_library(mezzo_library)  # static, or shared with BUILD_SHARED_LIBS
add_library(mezzo::mezzo ALIAS mezzo_library)
foreach(room base kernels amp numerics optim)
  target_sources(mezzo_library PRIVATE $<TARGET_OBJECTS:mezzo_${room}>)
endforeach()
mezzo_add_gpu_objects(mezzo_library kernels)
target_sources(mezzo_library PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}
                                    FILES ${PROJECT_SOURCE_DIR}/${_header} ${_public_headers})
target_include_directories(mezzo_library PUBLIC $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)  # for CMake < 3.23
target_compile_features(mezzo_library PUBLIC cxx_std_20)
target_link_libraries(mezzo_library PUBLIC mezzo::torch)
set_target_properties(mezzo_library PROPERTIES OUTPUT_NAME mezzo EXPORT_NAME mezzo LINKER_LANGUAGE CXX
                                               VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})

string(REGEX MATCH "^[0-9]+\\.[0-9]+" MEZZO_TORCH_RELEASE ${MEZZO_TORCH_VERSION})
set(_config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Mezzo)
install(TARGETS mezzo_library EXPORT MezzoTargets FILE_SET HEADERS COMPONENT library
        ARCHIVE COMPONENT library LIBRARY COMPONENT library)
install(EXPORT MezzoTargets NAMESPACE mezzo:: DESTINATION ${_config_dir} COMPONENT library)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/MezzoConfig.cmake.in ${PROJECT_BINARY_DIR}/MezzoConfig.cmake
                              INSTALL_DESTINATION ${_config_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/MezzoConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/MezzoConfig.cmake ${PROJECT_BINARY_DIR}/MezzoConfigVersion.cmake
              ${PROJECT_SOURCE_DIR}/cmake/MezzoTorch.cmake
        DESTINATION ${_config_dir} COMPONENT library)

set(_pc_libs "-L\${torchdir}/lib -Wl,-rpath,\${torchdir}/lib -Wl,--allow-shlib-undefined -ltorch_cpu -lc10")
if(MEZZO_TORCH_LINKS_CUDA)
  string(APPEND _pc_libs " -Wl,--no-as-needed -ltorch_cuda -lc10_cuda -Wl,--as-needed")
endif()
if(MEZZO_COMPILES_CUDA AND MEZZO_TORCH_LINKS_CUDA)
  string(APPEND _pc_libs " -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -lrt -ldl -lpthread")
endif()
cmake_path(GET MEZZO_TORCH_OPENMP FILENAME _openmp)
string(APPEND _pc_libs " -l:${_openmp}")
file(RELATIVE_PATH _prefix_from_pc /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${PROJECT_SOURCE_DIR}/cmake/mezzo.pc.in ${PROJECT_BINARY_DIR}/mezzo.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/mezzo.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT library)
