#include "mezzo/train/run_folder.h"

#include <set>

#include "mezzo/base/error.h"
#include "tests/testing.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;
using mezzo::testing::TempDir;
using mezzo::testing::write_file;

/// Where runs/ is made.
struct In {
  explicit In(const fs::path& folder) { fs::current_path(folder); }
  ~In() { fs::current_path(before); }
  const fs::path before = fs::current_path();
};

RunConfig to(const fs::path& out) {
  RunConfig config;
  config.out = out.string();
  return config;
}

TEST(RunFolder, EachRunOfTheSameSecondHasAFolderOfItsOwn) {
  const TempDir dir;
  const In there(dir.path());
  std::set<std::string> names;
  for (int i = 0; i < 5; ++i) names.insert(make_dated_folder("nano", "fp32"));
  EXPECT_EQ(names.size(), 5u);
  for (const std::string& name : names) {
    EXPECT_THAT(name, ::testing::MatchesRegex("runs/[0-9]{8}-[0-9]{6}-nano-fp32(-[2-5])?"));
    EXPECT_TRUE(fs::is_directory(name));
  }
}

TEST(RunFolder, WithoutANameIsNamedByTheTime) {
  const TempDir dir;
  const In there(dir.path());
  const RunFolder folder(to(""));
  EXPECT_THAT(folder.path().string(),
              ::testing::MatchesRegex("runs/[0-9]{8}-[0-9]{6}-nano-amp-bf16"));
}

TEST(RunFolder, IsHeldByOneRunAtATime) {
  const TempDir dir;
  RunConfig config = to(dir / "run");
  const RunFolder first(config);
  EXPECT_THROW_WITH(RunFolder(config), "is in use by process");
  config.resume = config.out;
  EXPECT_THROW_WITH(RunFolder(config), "is in use by process");
}

TEST(RunFolder, WithFilesInItIsNoNewOne) {
  const TempDir dir;
  write_file(dir / "file", "");
  EXPECT_THROW_WITH(RunFolder(to(dir.path())), "is not empty");
  EXPECT_THROW_WITH(RunFolder(to(dir / "file")), "cannot make the run's folder");
}

TEST(RunFolder, OfARefusedRunIsNotLeftBehind) {
  const TempDir dir;
  { const RunFolder folder(to(dir / "run")); }
  EXPECT_FALSE(fs::exists(dir / "run"));
  fs::create_directory(dir / "mine");
  { const RunFolder folder(to(dir / "mine")); }
  EXPECT_TRUE(fs::exists(dir / "mine"));
  { const RunFolder folder(to(dir / "mine")); }  // what locks it does not fill it
}

TEST(RunFolder, LosesWhatAKilledRunLeftUnderTemporaryNames) {
  const TempDir dir;
  const fs::path half = dir / "checkpoints/.step-000300.tmp-2147483647",
                 whole = dir / "checkpoints/step-000200";
  for (const fs::path& folder : {half, whole}) {
    fs::create_directories(folder);
    write_file(folder / "model.safetensors", "w");
  }
  RunConfig config = to(dir.path());
  config.resume = config.out;
  const RunFolder folder(config);
  EXPECT_FALSE(fs::exists(half));
  EXPECT_TRUE(fs::exists(whole));
}

}  // namespace
}  // namespace mezzo::train
