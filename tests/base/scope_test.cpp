#include "mezzo/base/scope.h"

#include <stdexcept>
#include <thread>

#include "tests/testing.h"

namespace mezzo {
namespace {

TEST(Scope, JoinsTheNamesOfTheScopesAround) {
  EXPECT_EQ(Scope::path(), "");
  const Scope block("blocks.3");
  EXPECT_EQ(Scope::path(), "blocks.3");
  {
    const Scope attention("attn");
    EXPECT_EQ(Scope::path(), "blocks.3.attn");
  }
  EXPECT_EQ(Scope::path(), "blocks.3");
}

TEST(Scope, IsLeftByAnExceptionToo) {
  try {
    const Scope scope("lost");
    throw std::runtime_error("away");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(Scope::path(), "");
}

TEST(Scope, APathTakesThePlaceOfWhatIsAround) {
  const Scope scope("student");
  const uint64_t outside = Scope::version();
  {
    const ScopePath path("teacher.h.0");
    EXPECT_EQ(Scope::path(), "teacher.h.0");
    EXPECT_NE(Scope::version(), outside);
    const Scope attention("attn");
    EXPECT_EQ(Scope::path(), "teacher.h.0.attn");
  }
  EXPECT_EQ(Scope::path(), "student");
}

TEST(Scope, BelongsToItsThread) {
  const Scope scope("mine");
  std::string theirs = "not run";
  std::thread([&] { theirs = Scope::path(); }).join();
  EXPECT_EQ(theirs, "");
}

TEST(Scope, HasAnotherVersionWheneverThePathIsAnother) {
  const uint64_t outside = Scope::version();
  uint64_t inside;
  {
    const Scope scope("part");
    inside = Scope::version();
    EXPECT_NE(inside, outside);
  }
  EXPECT_NE(Scope::version(), inside);
  const Scope other("other");
  EXPECT_NE(Scope::version(), inside);
}

TEST(Scope, APatternHoldsForAPartAndAllWithin) {
  EXPECT_TRUE(is_in_scope("blocks.3.attn", "blocks.3.attn"));
  EXPECT_TRUE(is_in_scope("blocks.3.attn.softmax", "blocks.3.attn"));
  EXPECT_TRUE(is_in_scope("blocks.3", ""));
  EXPECT_TRUE(is_in_scope("", ""));
  EXPECT_FALSE(is_in_scope("", "blocks"));
  EXPECT_FALSE(is_in_scope("blocks", "blocks.3"));
  EXPECT_FALSE(is_in_scope("blocks.3.attention", "blocks.3.attn"));
  EXPECT_FALSE(is_in_scope("model.blocks.3", "blocks.3"));
}

TEST(Scope, AWildcardStaysWithinAName) {
  EXPECT_TRUE(is_in_scope("blocks.3.attn", "blocks.*.attn"));
  EXPECT_TRUE(is_in_scope("blocks.12.attn.out", "blocks.*.attn"));
  EXPECT_FALSE(is_in_scope("blocks.3.mlp.attn", "blocks.*.attn"));
  EXPECT_TRUE(is_in_scope("blocks.1.mlp", "blocks.[0-2]"));
  EXPECT_FALSE(is_in_scope("blocks.3.mlp", "blocks.[0-2]"));
  EXPECT_TRUE(is_in_scope("blocks.3", "block?.3"));
}

}  // namespace
}  // namespace mezzo
