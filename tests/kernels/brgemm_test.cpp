#include "mezzo/kernels/matmul/brgemm.h"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/Context.h>
#include <c10/util/BFloat16.h>

namespace mezzo::kernels {
namespace {

using brgemm::Product;

// Row distances beyond the row, an M of one and of odd size, sums added and replaced.
const std::vector<Product> kProducts = {{1, 16, 2, 2, 16, 16, false},
                                        {31, 48, 34, 40, 64, 50, true},
                                        {33, 32, 128, 128, 32, 32, false},
                                        {64, 64, 64, 96, 64, 64, true}};

/// Whole numbers, whose sums are exact.
template <class T>
void expect_products() {
  for (const Product& p : kProducts) {
    std::vector<T> a(p.M * p.lda), b(p.K * p.ldb);
    std::vector<float> c(p.M * p.ldc, 5.0f), expected = c;
    for (int64_t i = 0; i < std::ssize(a); ++i) a[i] = static_cast<float>(i % 5 - 2);
    for (int64_t i = 0; i < std::ssize(b); ++i) b[i] = static_cast<float>(i % 7 - 3);
    for (int64_t m = 0; m < p.M; ++m) {
      for (int64_t n = 0; n < p.N; ++n) {
        float sum = p.accumulates ? 5.0f : 0.0f;
        for (int64_t k = 0; k < p.K; ++k)
          sum += static_cast<float>(a[m * p.lda + k]) *
                 static_cast<float>(b[brgemm::packed_index<T>(k, n, p.ldb)]);
        expected[m * p.ldc + n] = sum;
      }
    }
    const brgemm::ThreadState state;
    brgemm::multiply(p, a.data(), b.data(), c.data());
    EXPECT_EQ(c, expected) << p.M << "x" << p.N << "x" << p.K;
  }
}

TEST(Brgemm, MultipliesFp32Exactly) {
  const std::string reason = brgemm::refusal(at::kFloat, kProducts);
  if (!reason.empty()) GTEST_SKIP() << reason;
  expect_products<float>();
}

TEST(Brgemm, MultipliesBf16InterleavedByPairs) {
  const std::string reason = brgemm::refusal(at::kBFloat16, kProducts);
  if (!reason.empty()) GTEST_SKIP() << reason;
  expect_products<c10::BFloat16>();
}

TEST(Brgemm, DeclinesFp16ForWhichItWouldNeedFp16Arithmetic) {
  EXPECT_EQ(brgemm::process_refusal(at::kHalf), "brgemm takes fp32 and bf16, not Half");
}

TEST(Brgemm, DeclinesWhileOneDnnIsSwitchedOff) {
  at::globalContext().setUserEnabledMkldnn(false);
  EXPECT_EQ(brgemm::refusal(at::kFloat, kProducts), "oneDNN is switched off");
  at::globalContext().setUserEnabledMkldnn(true);
}

}  // namespace
}  // namespace mezzo::kernels
