#include "mezzo/base/atomic_file.h"

#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

namespace fs = std::filesystem;

size_t entries_in(const fs::path& folder) {
  return static_cast<size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(AtomicFile, ReplacesTheWholeFileAndLeavesNothingElse) {
  testing::TempDir dir;
  write_file_atomically(dir / "a", "a long first content");
  write_file_atomically(dir / "a", std::string_view("short\0!", 7));
  EXPECT_EQ(read_file(dir / "a"), std::string("short\0!", 7));
  EXPECT_EQ(entries_in(dir.path()), 1u);
}

TEST(AtomicFile, JoinsThePiecesOfAFileWrittenPieceByPiece) {
  testing::TempDir dir;
  write_file_atomically(dir / "a", [](const ByteSink& write) {
    write("one ");
    write("");
    write("two");
  });
  EXPECT_EQ(read_file(dir / "a"), "one two");
}

TEST(AtomicFile, LeavesTheOldFileWhenTheWriterThrowsHalfway) {
  testing::TempDir dir;
  write_file_atomically(dir / "a", "old");
  EXPECT_THROW(write_file_atomically(dir / "a",
                                     [](const ByteSink& write) {
                                       write("half");
                                       throw std::runtime_error("stop");
                                     }),
               std::runtime_error);
  EXPECT_EQ(read_file(dir / "a"), "old");
  EXPECT_EQ(entries_in(dir.path()), 1u);
}

TEST(AtomicFile, NamesThePathThatCannotBeWritten) {
  testing::TempDir dir;
  EXPECT_THROW_WITH(write_file_atomically(dir / "missing" / "a", "x"), "missing");
}

TEST(AtomicFile, FolderAppearsOnlyWhenItIsFull) {
  testing::TempDir dir;
  write_folder_atomically(dir / "step-1", [&](const fs::path& folder) {
    EXPECT_FALSE(fs::exists(dir / "step-1"));
    testing::write_file(folder / "weights", "w");
  });
  EXPECT_EQ(read_file(dir / "step-1" / "weights"), "w");
  EXPECT_EQ(entries_in(dir.path()), 1u);
}

TEST(AtomicFile, FolderIsNotThereWhenItsWriterThrows) {
  testing::TempDir dir;
  EXPECT_THROW(write_folder_atomically(dir / "step-1",
                                       [](const fs::path& folder) {
                                         testing::write_file(folder / "weights", "w");
                                         throw std::runtime_error("stop");
                                       }),
               std::runtime_error);
  EXPECT_EQ(entries_in(dir.path()), 0u);
}

TEST(AtomicFile, ARemovedFolderLeavesNothingAndOneThatIsNotThereIsNoError) {
  testing::TempDir dir;
  fs::create_directories(dir / "step-1" / "inner");
  testing::write_file(dir / "step-1" / "weights", "w");
  remove_folder_atomically(dir / "step-1");
  remove_folder_atomically(dir / "step-1");
  EXPECT_EQ(entries_in(dir.path()), 0u);
}

TEST(AtomicFile, TemporaryNamesOfOneProcessDifferAsThoseOfTwoWithOneNumberWould) {
  const fs::path name = temporary_name("folder/a");
  EXPECT_EQ(name.parent_path(), "folder");
  EXPECT_THAT(name.filename().string(),
              ::testing::StartsWith(".a.tmp-" + std::to_string(::getpid()) + "-"));
  EXPECT_NE(name, temporary_name("folder/a"));
}

// No process has this number, and that of the first one is always taken.
constexpr const char* kOfNobody = "2147483647";

TEST(AtomicFile, WhatAKilledWriterLeftIsRemovedAndNothingElse) {
  testing::TempDir dir;
  fs::create_directory(dir / (std::string(".step-1.tmp-") + kOfNobody));
  testing::write_file(dir / (std::string(".step-1.tmp-") + kOfNobody) / "weights", "w");
  testing::write_file(dir / (std::string(".a.tmp-") + kOfNobody), "half");
  testing::write_file(dir / (std::string(".a.tmp-") + kOfNobody + "-0123abcd"), "half");
  const std::vector<std::string> others = {
      ".a.tmp-1", "a.tmp-2147483647", ".a.tmp-", ".a.tmp-x", ".tmp", "a"};
  for (const std::string& name : others) testing::write_file(dir / name, "kept");
  remove_leftovers(dir.path(), std::chrono::hours(0));
  EXPECT_EQ(entries_in(dir.path()), others.size());
  for (const std::string& name : others) EXPECT_TRUE(fs::exists(dir / name)) << name;
  remove_leftovers(dir / "nothing", std::chrono::hours(0));
}

TEST(AtomicFile, WhatWasTouchedAShortTimeAgoStays) {
  testing::TempDir dir;
  const fs::path young = dir / (std::string(".a.tmp-") + kOfNobody),
                 old = dir / (std::string(".b.tmp-") + kOfNobody);
  for (const fs::path& file : {young, old}) testing::write_file(file, "half");
  fs::last_write_time(old, fs::file_time_type::clock::now() - std::chrono::hours(25));
  remove_leftovers(dir.path(), std::chrono::hours(24));
  EXPECT_TRUE(fs::exists(young));
  EXPECT_FALSE(fs::exists(old));
}

TEST(AtomicFile, ReadingNamesTheFileThatIsNotThereAndRefusesAFolder) {
  testing::TempDir dir;
  EXPECT_THROW_WITH(read_file(dir / "nothing"), "nothing: No such file");
  EXPECT_THROW_WITH(read_file(dir.path()), "is a folder");
}

}  // namespace
}  // namespace mezzo
