#include "mezzo/train/checkpoint.h"

#include <array>
#include <cmath>
#include <limits>
#include <random>

#include <nlohmann/json.hpp>
#include <sys/inotify.h>
#include <unistd.h>

#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "mezzo/kernels/adamw/split_weights.h"
#include "mezzo/report/json_number.h"
#include "tests/testing.h"
#include "tests/train/load_checkpoint.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;
using mezzo::testing::TempDir;

Checkpoint example(int64_t step, double val_loss) {
  Checkpoint checkpoint;
  checkpoint.step = step;
  checkpoint.skipped_steps = 3;
  checkpoint.explained_skips = 2;
  checkpoint.train_losses = {4.5, NAN};
  checkpoint.val_loss = val_loss;
  checkpoint.val_accuracy = 0.25;
  checkpoint.data_fingerprint = 0xfedcba9876543210u;
  checkpoint.sampler = {.seed = 9, .epoch = 2, .position = 17};
  checkpoint.scaler = GradScalerState{1024.0, 2.0, 0.5, 2000, 41};
  checkpoint.model["w"] = at::arange(6, at::kFloat).view({2, 3});
  checkpoint.optimizer["exp_avg.w"] = at::ones({2, 3});
  checkpoint.rng["cpu"] = at::arange(16, at::kByte);
  checkpoint.fp8["h.1.mlp.c_fc.grad"] = at::arange(17, at::kFloat);
  return checkpoint;
}

std::vector<std::string> names(const fs::path& run) {
  std::vector<std::string> result;
  for (const fs::path& folder : list_checkpoints(run)) result.push_back(folder.filename().string());
  return result;
}

TEST(Checkpoint, ComesBackAsItWasWritten) {
  const TempDir dir;
  save_checkpoint(dir / "c", example(400, 4.25));
  const Checkpoint back = load_checkpoint(dir / "c");
  EXPECT_EQ(back.step, 400);
  EXPECT_EQ(back.skipped_steps, 3);
  EXPECT_EQ(back.explained_skips, 2);
  EXPECT_THAT(back.train_losses, ::testing::ElementsAre(4.5, ::testing::IsNan()));
  EXPECT_EQ(back.val_loss, 4.25);
  EXPECT_EQ(back.data_fingerprint, 0xfedcba9876543210u);
  EXPECT_EQ(back.sampler, example(400, 4.25).sampler);
  EXPECT_EQ(back.scaler.value().scale, 1024.0);
  EXPECT_EQ(back.scaler.value().growth_tracker, 41);
  EXPECT_TRUE(at::equal(back.model.at("w"), example(1, 1).model["w"]));
  EXPECT_TRUE(at::equal(back.rng.at("cpu"), example(1, 1).rng["cpu"]));
  EXPECT_TRUE(at::equal(back.fp8.at("h.1.mlp.c_fc.grad"), at::arange(17, at::kFloat)));
}

TEST(Checkpoint, ASplitWeightIsWrittenWhole) {
  const TempDir dir;
  const at::Tensor whole = at::linspace(-3, 3, 6).view({2, 3});
  const auto [high, remainder] = kernels::split(whole);
  Checkpoint checkpoint = example(400, 4.25);
  checkpoint.model["w"] = high;
  checkpoint.optimizer["remainder.w"] = remainder;
  save_checkpoint(dir / "c", checkpoint);
  const Checkpoint back = load_checkpoint(dir / "c");
  EXPECT_TRUE(at::equal(back.model.at("w"), whole));
  EXPECT_TRUE(at::equal(back.optimizer.at("remainder.w"), remainder));
  save_checkpoint(dir / "again", back);
  EXPECT_TRUE(at::equal(load_checkpoint(dir / "again").model.at("w"), whole));
}

TEST(Checkpoint, OfARunThatRemembersNoFp8CastsHasNoFileOfThem) {
  const TempDir dir;
  Checkpoint checkpoint = example(400, 4.25);
  checkpoint.fp8.clear();
  save_checkpoint(dir / "c", checkpoint);
  EXPECT_FALSE(fs::exists(dir / "c" / "fp8.safetensors"));
  EXPECT_TRUE(load_checkpoint(dir / "c").fp8.empty());
}

TEST(Checkpoint, AnyAlteredOrTruncatedFileIsNamed) {
  for (const char* name :
       {"model.safetensors", "optimizer.safetensors", "rng.safetensors", "fp8.safetensors"}) {
    const TempDir dir;
    save_checkpoint(dir / "c", example(1, 1));
    const std::string bytes = mezzo::testing::read_file(dir / "c" / name);
    std::string altered = bytes;
    altered.back() = static_cast<char>(altered.back() ^ 1);
    mezzo::testing::write_file(dir / "c" / name, altered);
    EXPECT_THROW_WITH(load_checkpoint(dir / "c"),
                      std::string(name) + " is not the file that was written");
    mezzo::testing::write_file(dir / "c" / name, bytes.substr(0, bytes.size() / 2));
    EXPECT_THROW_WITH(load_checkpoint(dir / "c"), name);
    fs::remove(dir / "c" / name);
    EXPECT_THROW_WITH(load_checkpoint(dir / "c"), name);
  }
}

TEST(Checkpoint, ADamagedStateIsAnErrorWhateverTheDamage) {
  const TempDir dir;
  save_checkpoint(dir / "c", example(1, 1));
  const std::string bytes = mezzo::testing::read_file(dir / "c" / "state.json");
  std::mt19937 random(5);
  for (int i = 0; i < 300; ++i) {
    std::string broken = bytes;
    if (i % 2 == 0) broken.resize(random() % broken.size());
    if (!broken.empty()) broken[random() % broken.size()] = static_cast<char>(random() % 256);
    mezzo::testing::write_file(dir / "c" / "state.json", broken);
    try {
      const Checkpoint back = load_checkpoint(dir / "c");  // a blank has changed
      EXPECT_EQ(back.step, 1);
      EXPECT_EQ(back.skipped_steps, 3);
      EXPECT_EQ(back.train_losses.front(), 4.5);
      EXPECT_EQ(back.sampler, example(1, 1).sampler);
    } catch (const Error&) {
    }
  }
}

TEST(Checkpoint, AnAlteredNumberInItsStateIsNamed) {
  const TempDir dir;
  save_checkpoint(dir / "c", example(400, 4.25));
  const fs::path file = dir / "c" / "state.json";
  std::string state = mezzo::testing::read_file(file);
  state.replace(state.find("\"step\": 400"), 11, "\"step\": 401");
  mezzo::testing::write_file(file, state);
  EXPECT_THROW_WITH(load_checkpoint(dir / "c"),
                    file.string() + " is not the file that was written");
}

TEST(Checkpoint, OfAnOlderBuildIsReadWithoutAChecksumOfItsStateAndWithTheMeanOfItsLosses) {
  const TempDir dir;
  save_checkpoint(dir / "c", example(400, 4.25));
  const fs::path file = dir / "c" / "state.json";
  auto state = nlohmann::ordered_json::parse(mezzo::testing::read_file(file));
  ASSERT_EQ(state["checksums"].erase("state.json"), 1u);
  state.erase("train_losses");
  for (const double mean : {4.5, static_cast<double>(NAN)}) {
    state["train_loss"] = report::json_number(mean);
    mezzo::testing::write_file(file, state.dump(2));
    const Checkpoint back = load_checkpoint(dir / "c");
    EXPECT_EQ(back.step, 400);
    EXPECT_EQ(back.train_losses, std::isnan(mean) ? std::vector<double>{} : std::vector{mean});
  }
}

TEST(Checkpoint, OfAnotherFormatIsRefusedByNumber) {
  const TempDir dir;
  save_checkpoint(dir / "c", example(1, 1));
  std::string state = mezzo::testing::read_file(dir / "c" / "state.json");
  state.replace(state.find("\"format\": 1"), 11, "\"format\": 9");
  mezzo::testing::write_file(dir / "c" / "state.json", state);
  EXPECT_THROW_WITH(load_checkpoint(dir / "c"), "has format 9, but this build reads format 1");
}

TEST(Checkpoint, AFailedWriteLeavesNothingBehind) {
  const TempDir dir;
  Checkpoint bad = example(1, 1);
  bad.optimizer["undefined"] = at::Tensor();
  EXPECT_THROW(save_checkpoint(dir / "run" / "checkpoints" / "step-000001", bad), Error);
  EXPECT_TRUE(fs::is_empty(dir / "run" / "checkpoints"));
}

TEST(Checkpoints, TheNewestAndTheBestAreKept) {
  const TempDir dir;
  const std::vector<double> val_losses = {5.0, 3.0, 4.0, 4.5, 4.25};
  for (size_t i = 0; i < val_losses.size(); ++i) {
    const auto step = static_cast<int64_t>(100 * (i + 1));
    save_checkpoint(checkpoint_folder(dir.path(), step), example(step, val_losses[i]));
  }
  prune_checkpoints(dir.path(), 2);
  EXPECT_EQ(names(dir.path()),
            (std::vector<std::string>{"step-000200", "step-000400", "step-000500"}));
}

TEST(Checkpoints, OfThoseThatAreAlikeTheNewestAreKeptToo) {
  const TempDir dir;
  for (const int64_t step : {100, 200, 300, 400})
    save_checkpoint(checkpoint_folder(dir.path(), step), example(step, 5.0));
  prune_checkpoints(dir.path(), 2);
  EXPECT_EQ(names(dir.path()),
            (std::vector<std::string>{"step-000100", "step-000300", "step-000400"}));
}

TEST(Checkpoints, OneThatIsDeletedLosesItsNameBeforeItsFiles) {
  const TempDir dir;
  for (const int64_t step : {100, 200})
    save_checkpoint(checkpoint_folder(dir.path(), step), example(step, -static_cast<double>(step)));
  const fs::path first = checkpoint_folder(dir.path(), 100);
  const int events = ::inotify_init1(IN_NONBLOCK);
  ::inotify_add_watch(events, first.parent_path().c_str(), IN_MOVED_FROM);
  ::inotify_add_watch(events, first.c_str(), IN_DELETE);
  prune_checkpoints(dir.path(), 1);
  alignas(inotify_event) std::array<char, 4096> happened{};
  ASSERT_GT(::read(events, happened.data(), happened.size()), 0);
  EXPECT_EQ(reinterpret_cast<const inotify_event*>(happened.data())->mask & IN_MOVED_FROM,
            unsigned{IN_MOVED_FROM});
  ::close(events);
  EXPECT_EQ(names(dir.path()), (std::vector<std::string>{"step-000200"}));
}

TEST(Checkpoints, ThoseOfLaterStepsGetAnotherNameEachTime) {
  const TempDir dir;
  save_checkpoint(checkpoint_folder(dir.path(), 100), example(100, 5.0));
  for (int way = 0; way < 2; ++way) {
    for (const int64_t step : {200, 300})
      save_checkpoint(checkpoint_folder(dir.path(), step), example(step, 5.0));
    EXPECT_EQ(abandon_checkpoints_after(dir.path(), 100), 2);
    EXPECT_EQ(names(dir.path()), (std::vector<std::string>{"step-000100"}));
  }
  const fs::path checkpoints = dir / "checkpoints";
  for (const char* name : {"abandoned-step-000200", "abandoned-step-000300",
                           "abandoned-step-000200-2", "abandoned-step-000300-2"})
    EXPECT_NO_THROW(load_checkpoint(checkpoints / name)) << name;
  EXPECT_EQ(find_checkpoint(checkpoints / "abandoned-step-000300").filename(),
            "abandoned-step-000300");
}

TEST(Checkpoints, TheNewestIsTheLargestStepNotTheLastName) {
  const TempDir dir;
  for (const int64_t step : {900000, 1000000})
    save_checkpoint(checkpoint_folder(dir.path(), step), example(step, 1));
  EXPECT_EQ(find_checkpoint(dir.path()).filename(), "step-1000000");
  EXPECT_EQ(find_checkpoint(checkpoint_folder(dir.path(), 900000)).filename(), "step-900000");
}

TEST(Checkpoints, AFolderWithoutOneIsRefused) {
  const TempDir dir;
  EXPECT_THROW_WITH(find_checkpoint(dir.path()), "holds no checkpoint; expected a run's folder");
  mezzo::testing::write_file(dir / "config.toml", "");
  EXPECT_THROW_WITH(find_checkpoint(dir.path()),
                    "Hint: begin anew with mezzo train --config " + (dir / "config.toml").string());
}

TEST(Checkpoints, OneThatIsDamagedNamesTheOneBefore) {
  const TempDir dir;
  for (const int64_t step : {9, 10}) {
    const fs::path folder = checkpoint_folder(dir.path(), step);
    save_checkpoint(folder, example(step, 1));
    fs::resize_file(folder / "model.safetensors", 1);
  }
  const fs::path older = checkpoint_folder(dir.path(), 9),
                 newer = checkpoint_folder(dir.path(), 10);
  const std::string hint = "Hint: the checkpoint before it is " + older.string();
  EXPECT_THROW_WITH(load_checkpoint(newer), hint);
  EXPECT_THROW_WITH(load_model_tensors(newer), hint);
  EXPECT_THROW_WITH(load_checkpoint(older), "(truncated or altered)");
}

}  // namespace
}  // namespace mezzo::train
