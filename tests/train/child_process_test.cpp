#include "mezzo/train/child_process.h"

#include "tests/testing.h"

namespace mezzo::train {
namespace {

// The child of a test is the program of the tests.
TEST(ChildProcess, IsThisProgramWithOtherArgumentsWhateverCharactersTheyHave) {
  ChildProcess child({"--gtest_list_tests", "--gtest_filter=ChildProcess.*:it's \"not\" there"},
                     /*errors=*/"", ChildProcess::Group::kParents);
  std::vector<std::string> lines;
  while (const auto line = child.read_line()) lines.push_back(*line);
  EXPECT_THAT(lines, ::testing::Contains("ChildProcess."));
  EXPECT_THAT(lines, ::testing::Not(::testing::Contains("FitPolicy.")));
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(child.wait(), 0) << "again";
}

TEST(ChildProcess, IsWaitedForThoughNobodyHasReadItsOutput) {
  ChildProcess child({"--gtest_list_tests"}, /*errors=*/"", ChildProcess::Group::kOwn);
  EXPECT_EQ(child.wait(), 0);
}

}  // namespace
}  // namespace mezzo::train
