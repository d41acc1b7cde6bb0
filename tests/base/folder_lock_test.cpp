#include "mezzo/base/folder_lock.h"

#include <csignal>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

#include "mezzo/base/error.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

TEST(FolderLock, ASecondOneIsRefusedWithTheNumberOfTheProcess) {
  const testing::TempDir dir;
  const FolderLock lock(dir.path());
  EXPECT_THROW_WITH(FolderLock(dir.path()),
                    dir.path().string() + " is in use by process " + std::to_string(::getpid()));
}

TEST(FolderLock, EndsWithItsScopeAndTheFileAloneKeepsNobodyOut) {
  const testing::TempDir dir;
  { const FolderLock lock(dir.path()); }
  EXPECT_TRUE(std::filesystem::exists(dir / FolderLock::kFile));
  EXPECT_NO_THROW(FolderLock(dir.path()));
}

TEST(FolderLock, EndsWithItsProcess) {
  const testing::TempDir dir;
  const pid_t child = ::fork();
  if (child == 0) {
    const FolderLock lock(dir.path());
    ::raise(SIGKILL);
  }
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_NO_THROW(FolderLock(dir.path()));
}

}  // namespace
}  // namespace mezzo
