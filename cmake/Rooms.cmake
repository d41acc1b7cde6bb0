# A room is a folder of mezzo/ and one static library: mezzo_room(amp SOURCES a.cpp ... USES base ...).
# A test program is tests/<room>/, one a room: mezzo_room_test(amp SOURCES a_test.cpp ... [USES base]).

add_library(mezzo_options INTERFACE)
# -fPIC for programs too: a precompiled header serves only sources compiled alike.
target_compile_options(mezzo_options INTERFACE -fPIC -fopenmp -Wall -Wextra -Wshadow -Wnon-virtual-dtor)
# Nobody reads errno after a square root, or the floating-point traps; loops that might set them cannot become vectors.
target_compile_options(mezzo_options INTERFACE -fno-math-errno -fno-trapping-math)
if(PROJECT_IS_TOP_LEVEL)
  target_compile_options(mezzo_options INTERFACE -Werror)
endif()
# libtorch carries a newer fmt than Debian, in its own include folder: use that one, header-only.
target_compile_definitions(mezzo_options INTERFACE FMT_HEADER_ONLY)
target_include_directories(mezzo_options INTERFACE ${PROJECT_SOURCE_DIR})
target_link_libraries(mezzo_options INTERFACE mezzo::torch)

# torch's headers cost seconds in every source that sees them; they are compiled once here. A source still
# includes what it uses: the precompiled header is speed, never a substitute for an include.
add_library(mezzo_pch STATIC ${PROJECT_SOURCE_DIR}/cmake/pch.cpp)
target_link_libraries(mezzo_pch PRIVATE mezzo_options)
target_precompile_headers(mezzo_pch PRIVATE ${PROJECT_SOURCE_DIR}/cmake/pch.h)

function(mezzo_room NAME)
  cmake_parse_arguments(ARG "TORCH_FREE" "" "SOURCES;USES;LIBRARIES" ${ARGN})
  add_library(mezzo_${NAME} STATIC ${ARG_SOURCES})
  add_library(mezzo::${NAME} ALIAS mezzo_${NAME})
  list(TRANSFORM ARG_USES PREPEND mezzo_)
  target_link_libraries(mezzo_${NAME} PUBLIC mezzo_options ${ARG_USES} ${ARG_LIBRARIES})
  if(NOT ARG_TORCH_FREE)
    target_precompile_headers(mezzo_${NAME} REUSE_FROM mezzo_pch)
  endif()
endfunction()

# One ctest entry a program: libtorch takes half a second to load, an entry a test would load it some 1,700 times.
function(mezzo_room_test NAME)
  cmake_parse_arguments(ARG "TORCH_FREE" "" "SOURCES;USES" ${ARGN})
  set(_target ${NAME}_test)
  add_executable(${_target} ${ARG_SOURCES})
  list(TRANSFORM ARG_USES PREPEND mezzo_)
  target_link_libraries(${_target} PRIVATE mezzo_${NAME} ${ARG_USES} mezzo_testing GTest::gmock_main)
  target_compile_definitions(${_target} PRIVATE MEZZO_TEST_DATA="${CMAKE_CURRENT_SOURCE_DIR}/golden")
  if(NOT ARG_TORCH_FREE)
    target_precompile_headers(${_target} REUSE_FROM mezzo_pch)
  endif()
  add_test(NAME ${NAME} COMMAND ${_target} --gtest_brief=1)
  set_tests_properties(${NAME} PROPERTIES TIMEOUT 1800)
endfunction()
