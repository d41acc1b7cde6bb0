#include "mezzo/train/capacity.h"

#include <optional>

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo::train {
namespace {

TEST(Capacity, ReadsAmountsOfMemory) {
  EXPECT_EQ(bytes_of("16GiB"), int64_t{16} << 30);
  EXPECT_EQ(bytes_of("800 MiB"), int64_t{800} << 20);
  EXPECT_EQ(bytes_of("1.5G"), (int64_t{3} << 30) / 2);
  EXPECT_EQ(bytes_of("2KB"), 2048);
  EXPECT_EQ(bytes_of("12345"), 12345);
  for (const char* text : {"", "GiB", "16 elephants", "-1GiB", "0", "nan", "1e30", "16GiBB"})
    EXPECT_THROW_WITH(bytes_of(text), "--memory must be an amount such as 16GiB") << text;
}

/// Whether the answer holds: it fits, and a 32nd part more does not.
void expect_found(int64_t budget, const std::function<int64_t(int64_t)>& bytes) {
  int tries = 0;
  const LargestFit found = largest_that_fits(budget, 1 << 20, [&](int64_t n) {
    ++tries;
    return bytes(n) <= budget ? std::optional(bytes(n)) : std::nullopt;
  });
  EXPECT_EQ(found.peak_bytes, bytes(found.number));
  EXPECT_LE(bytes(found.number), budget);
  EXPECT_GT(bytes(found.number + std::max<int64_t>(1, found.number / 32)), budget);
  EXPECT_LE(tries, 12);
}

TEST(Capacity, FindsTheLargestBatchInFewTries) {
  expect_found(1000, [](int64_t n) { return 100 + 7 * n; });
  expect_found(16'000'000, [](int64_t n) { return 50'000 + 31'000 * n; });
  expect_found(16'000'000, [](int64_t n) { return 50'000 + 31'000 * n + 40 * n * n; });
  expect_found(1000, [](int64_t n) { return 600 + 300 * n; });          // just one
  expect_found(5000, [](int64_t n) { return n < 5 ? 100 : 100 * n; });  // flat at first
}

TEST(Capacity, IsZeroWhereNotEvenOneFits) {
  const LargestFit found = largest_that_fits(10, 100, [](int64_t) { return std::nullopt; });
  EXPECT_EQ(found.number, 0);
}

TEST(Capacity, TheTableComesBackFromItsJson) {
  report::Capacity capacity;
  capacity.budget_bytes = int64_t{1} << 30;
  capacity.rows = {{"fp32", 12, 34, "nano", 56}, {"amp-bf16", 0, 0, "", 0}};
  const report::Capacity back = report::capacity_of(report::capacity_json(capacity));
  EXPECT_EQ(report::capacity_json(back), report::capacity_json(capacity));
  EXPECT_THAT(report::capacity_text(back), ::testing::HasSubstr("none"));
  EXPECT_THROW_WITH(report::capacity_of("[]"), "is no table of what fits");
}

}  // namespace
}  // namespace mezzo::train
