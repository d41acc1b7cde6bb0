#include "mezzo/train/checkpoint_writer.h"

#include <chrono>
#include <fstream>
#include <memory>
#include <thread>

#include <sys/stat.h>

#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "mezzo/base/memory.h"
#include "tests/devices.h"
#include "tests/testing.h"
#include "tests/train/load_checkpoint.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;
using mezzo::testing::TempDir;

constexpr int64_t kKeepAll = 100;
constexpr auto kTensors = {&Checkpoint::model, &Checkpoint::optimizer, &Checkpoint::rng};

Checkpoint example(int64_t step, int64_t rows = 300) {
  Checkpoint checkpoint;
  checkpoint.step = step;
  checkpoint.train_losses = {4.5};
  checkpoint.val_loss = 4.0 - 0.01 * static_cast<double>(step);
  checkpoint.sampler = {.seed = 9, .epoch = 2, .position = step};
  checkpoint.scaler = GradScalerState{1024.0, 2.0, 0.5, 2000, 41};
  const auto value = static_cast<double>(step);
  checkpoint.model["w"] = at::full({rows, 100}, value, at::kFloat);
  checkpoint.model["by column"] = at::arange(6, at::kFloat).view({2, 3}).t();
  checkpoint.optimizer["exp_avg.w"] = at::full({rows, 100}, value, at::kBFloat16);
  checkpoint.optimizer["step.w"] = at::full({}, value, at::kFloat);
  checkpoint.rng["cpu"] = at::arange(16, at::kByte);
  return checkpoint;
}

Checkpoint broken(int64_t step) {
  Checkpoint checkpoint = example(step);
  checkpoint.optimizer["exp_avg.w"] = at::Tensor();
  return checkpoint;
}

void expect_same_files(const fs::path& a, const fs::path& b) {
  for (const char* name :
       {"model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"})
    EXPECT_EQ(mezzo::testing::read_file(a / name), mezzo::testing::read_file(b / name)) << name;
}

/// A writer, and what it notes.
struct Writing {
  explicit Writing(const fs::path& run, int64_t keep = kKeepAll)
      : writer(std::make_unique<CheckpointWriter>(
            run, keep, [this](const std::string& note) { notes.push_back(note); })) {}
  std::vector<std::string> notes;
  std::unique_ptr<CheckpointWriter> writer;
};

/// An older checkpoint of the run whose state nobody can read before let_go(): pruning waits there.
class Obstacle {
 public:
  explicit Obstacle(const fs::path& run) : file_(checkpoint_folder(run, 1) / "state.json") {
    fs::create_directories(file_.parent_path());
    EXPECT_EQ(::mkfifo(file_.c_str(), 0600), 0);
  }
  void let_go() { std::ofstream(file_, std::ios::app).close(); }

 private:
  fs::path file_;
};

TEST(CheckpointWriter, WritesTheFilesOfSaveCheckpoint) {
  const TempDir dir;
  save_checkpoint(dir / "saved", example(7));
  Writing now(dir / "now"), later(dir / "later");
  now.writer->write(example(7));
  later.writer->write_in_background(example(7));
  later.writer->wait();
  expect_same_files(checkpoint_folder(dir / "now", 7), dir / "saved");
  expect_same_files(checkpoint_folder(dir / "later", 7), dir / "saved");
}

TEST(CheckpointWriter, TheCallerGoesOnWhileItWrites) {
  const TempDir dir;
  Obstacle obstacle(dir.path());
  Writing writing(dir.path());
  writing.writer->write_in_background(example(2));  // returns, though nobody has let go
  obstacle.let_go();
  writing.writer->wait();
  EXPECT_EQ(load_checkpoint(checkpoint_folder(dir.path(), 2)).step, 2);
}

class CheckpointWriterOn : public mezzo::testing::OnDevice<> {};

TEST_P(CheckpointWriterOn, TheTensorsMayChangeAtOnce) {
  const TempDir dir;
  Writing writing(dir.path());
  for (const int64_t step : {3, 4}) {  // the second one into the copy of the first
    const Checkpoint want = example(step, 30000);
    Checkpoint checkpoint = want;
    for (const auto tensors : kTensors)
      for (auto& [name, tensor] : checkpoint.*tensors) tensor = there(tensor.clone());
    writing.writer->write_in_background(checkpoint);
    for (const auto tensors : kTensors)
      for (const auto& [name, tensor] : checkpoint.*tensors) tensor.fill_(77);
    writing.writer->wait();
    const Checkpoint back = load_checkpoint(checkpoint_folder(dir.path(), step));
    for (const auto tensors : kTensors)
      for (const auto& [name, tensor] : want.*tensors)
        EXPECT_TRUE(at::equal((back.*tensors).at(name), tensor)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, CheckpointWriterOn, mezzo::testing::on_devices(),
                         mezzo::testing::device_alone);

TEST(CheckpointWriter, OneAfterTheOtherEachIsWhole) {
  const TempDir dir;
  Writing writing(dir.path());
  for (int64_t step = 1; step <= 4; ++step) writing.writer->write_in_background(example(step));
  writing.writer->write(example(5));
  for (int64_t step = 1; step <= 5; ++step) {
    save_checkpoint(checkpoint_folder(dir / "saved", step), example(step));
    expect_same_files(checkpoint_folder(dir.path(), step), checkpoint_folder(dir / "saved", step));
  }
}

TEST(CheckpointWriter, TakesTheMemoryOfTheLastCopyAgain) {
  const TempDir dir;
  const TensorMemoryMeter meter;
  Writing writing(dir.path());
  Checkpoint checkpoint = example(1);
  const int64_t before = meter.current_bytes();
  writing.writer->write_in_background(checkpoint);
  const int64_t copy = meter.current_bytes() - before;
  EXPECT_EQ(copy, before);
  checkpoint.step = 2;
  writing.writer->write_in_background(checkpoint);
  EXPECT_EQ(meter.current_bytes() - before, copy);
  writing.writer->write_in_background(example(3, 10));  // another shape: that of before is freed
  EXPECT_LT(meter.current_bytes() - before, copy);
  writing.writer->wait();
  EXPECT_EQ(load_checkpoint(checkpoint_folder(dir.path(), 3)).model.at("w").size(0), 10);
}

TEST(CheckpointWriter, WithoutRoomForACopyTheRunWaits) {
  const TempDir dir;
  TensorMemoryMeter meter;
  Writing writing(dir.path());
  const Checkpoint checkpoint = example(8);
  meter.set_budget(meter.current_bytes() + 1000);
  writing.writer->write_in_background(checkpoint);
  EXPECT_TRUE(fs::exists(checkpoint_folder(dir.path(), 8)));
  ASSERT_EQ(writing.notes.size(), 1u);
  EXPECT_THAT(writing.notes.front(), ::testing::HasSubstr("step 8: training waits"));
}

TEST(CheckpointWriter, AnErrorInTheBackgroundIsThrownByWait) {
  const TempDir dir;
  Writing writing(dir.path());
  writing.writer->write_in_background(broken(1));
  EXPECT_THROW_WITH(writing.writer->wait(), (dir / "checkpoints").string());
  EXPECT_TRUE(fs::is_empty(dir / "checkpoints"));
  writing.writer->wait();  // it has been told
  EXPECT_TRUE(writing.notes.empty());
}

TEST(CheckpointWriter, AfterAnErrorInTheBackgroundTheNextOneIsWrittenAllTheSame) {
  const auto next = {
      +[](CheckpointWriter& writer, const Checkpoint& checkpoint) { writer.write(checkpoint); },
      +[](CheckpointWriter& writer, const Checkpoint& checkpoint) {
        writer.write_in_background(checkpoint);
      }};
  for (const auto write : next) {
    const TempDir dir;
    Writing writing(dir.path());
    writing.writer->write_in_background(broken(1));
    write(*writing.writer, example(2));
    EXPECT_EQ(find_checkpoint(dir.path()), checkpoint_folder(dir.path(), 2));
    ASSERT_EQ(writing.notes.size(), 1u);
    EXPECT_THAT(writing.notes.front(), ::testing::HasSubstr("a checkpoint was not written"));
    writing.writer->write_in_background(broken(3));
    EXPECT_THROW(write(*writing.writer, broken(4)), Error) << "twice in a row";
  }
}

TEST(CheckpointWriter, AFailedWriteLeavesTheOlderCheckpoint) {
  const TempDir dir;
  Writing writing(dir.path());
  writing.writer->write_in_background(example(1));
  writing.writer->write_in_background(broken(2));
  EXPECT_THROW(writing.writer->wait(), Error);
  EXPECT_EQ(find_checkpoint(dir.path()), checkpoint_folder(dir.path(), 1));
}

TEST(CheckpointWriter, ItsEndWaitsForTheWrite) {
  const TempDir dir;
  Obstacle obstacle(dir.path());
  Writing writing(dir.path());
  writing.writer->write_in_background(example(2));
  auto end = std::async(std::launch::async, [&] { writing.writer.reset(); });
  EXPECT_EQ(end.wait_for(std::chrono::milliseconds(20)), std::future_status::timeout);
  obstacle.let_go();
  end.get();
  EXPECT_TRUE(writing.notes.empty());
}

TEST(CheckpointWriter, ItsEndTellsOfAnErrorThatNobodyAskedFor) {
  const TempDir dir;
  Writing writing(dir.path());
  writing.writer->write_in_background(broken(2));
  writing.writer.reset();
  ASSERT_EQ(writing.notes.size(), 1u);
  EXPECT_THAT(writing.notes.front(),
              ::testing::AllOf(::testing::HasSubstr("was not written"),
                               ::testing::HasSubstr((dir / "checkpoints").string())));
}

TEST(CheckpointWriter, ARunThatWentBackKeepsWhatItWritesAndPutsLaterOnesAside) {
  for (const bool in_background : {false, true}) {
    const TempDir dir;
    for (const int64_t step : {2, 5, 7})
      save_checkpoint(checkpoint_folder(dir.path(), step), example(step));
    Writing writing(dir.path(), /*keep=*/1);
    writing.writer->go_on_from(2);
    EXPECT_EQ(find_checkpoint(dir.path()), checkpoint_folder(dir.path(), 7)) << "as yet";
    if (in_background) {
      writing.writer->write_in_background(example(3));
    } else {
      writing.writer->write(example(3));
    }
    writing.writer->write(example(5));
    EXPECT_EQ(list_checkpoints(dir.path()),
              std::vector<fs::path>{checkpoint_folder(dir.path(), 5)});
    EXPECT_EQ(load_checkpoint(dir / "checkpoints/abandoned-step-000007").step, 7);
    ASSERT_EQ(writing.notes.size(), 1u);
    EXPECT_THAT(writing.notes.front(), ::testing::HasSubstr("2 of its checkpoints"));
  }
}

TEST(CheckpointWriter, DeletesTheOnesThatAreNotKept) {
  const TempDir dir;
  Writing writing(dir.path(), /*keep=*/2);
  for (int64_t step = 1; step <= 4; ++step) writing.writer->write_in_background(example(step));
  writing.writer->wait();
  const std::vector<fs::path> want = {checkpoint_folder(dir.path(), 3),
                                      checkpoint_folder(dir.path(), 4)};
  EXPECT_EQ(list_checkpoints(dir.path()), want);
}

}  // namespace
}  // namespace mezzo::train
