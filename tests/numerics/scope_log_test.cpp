#include "mezzo/numerics/scope_log.h"

#include <gtest/gtest.h>

#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>

namespace mezzo::numerics {
namespace {

// What is watched may have no end.
TEST(ScopeLog, KeepsTheLatestScopesAlone) {
  const uint64_t thread = at::RecordFunction::currentThreadId();
  ScopeLog log;
  log.note("first");
  const uint64_t first = at::sequence_number::get_and_increment();
  EXPECT_EQ(log.path_at(thread, first), "first");
  for (int i = 0; i < 200'000; ++i) log.note("between");
  log.note("last");
  EXPECT_EQ(log.path_at(thread, first), "");
  EXPECT_EQ(log.path_at(thread, at::sequence_number::peek()), "last");
}

}  // namespace
}  // namespace mezzo::numerics
