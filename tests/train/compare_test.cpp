// Real runs with planted faults, and what a comparison of their files shows.
#include "mezzo/train/compare.h"

#include <chrono>
#include <thread>

#include <ATen/Functions.h>
#include <ATen/record_function.h>

#include "mezzo/base/check.h"
#include "mezzo/report/comparison.h"
#include "mezzo/train/run.h"
#include "tests/testing.h"
#include "tests/train/tiny_run.h"

namespace mezzo::train {
namespace {

using mezzo::testing::TempDir;

const std::atomic<bool> kNeverStop{false};
constexpr int64_t kMiB = int64_t{1} << 20;

/// While it lives, the loss of each step takes 20 ms more.
class SlowLoss {
 public:
  SlowLoss()
      : handle_(at::addGlobalCallback(
            at::RecordFunctionCallback([](const at::RecordFunction& function)
                                           -> std::unique_ptr<at::ObserverContext> {
              if (std::string_view(function.name()) == "mezzo::linear_cross_entropy")
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
              return nullptr;
            }).scopes({at::RecordScope::FUNCTION}))) {}
  ~SlowLoss() { at::removeCallback(handle_); }

 private:
  at::CallbackHandle handle_;
};

/// Keeps a MiB more of tensors each step.
class Leak : public report::Sink {
 public:
  std::string name() const override { return "leak"; }
  void on_step(const report::StepRecord&) override {
    kept_.push_back(at::zeros({kMiB}, at::kByte));
  }

 private:
  std::vector<at::Tensor> kept_;
};

report::ComparedRun run_in(const std::filesystem::path& folder, const char* mode, int64_t seed,
                           bool is_leaking = false) {
  std::filesystem::create_directories(folder);
  TinyRun tiny(folder);
  tiny.config.precision = mode;
  tiny.config.seed = seed;
  const RunData data{std::nullopt, std::move(tiny.tokens)};
  report::Sinks sinks;
  if (is_leaking) sinks.add(std::make_unique<Leak>());
  train(tiny.config, data, sinks, kNeverStop);
  return {mode, seed, "", report::read_run_files(tiny.config.out)};
}

const report::ModeResult& of(const report::Comparison& comparison, const std::string& mode) {
  for (const report::ModeResult& result : comparison.modes) {
    if (result.mode == mode) return result;
  }
  throw std::out_of_range(mode);
}

report::Comparison compared(const std::vector<report::ComparedRun>& runs) {
  return report::compare_runs(
      {.modes = {"fp32", "amp-bf16"}, .baseline = "fp32", .seeds = {1}, .steps = 12, .block = 6},
      runs);
}

TEST(Compare, APlantedSlowDownIsSeenInTheSpeedOfItsModeAlone) {
  const TempDir dir;
  const report::ComparedRun fp32 = run_in(dir / "a", "fp32", 1);
  std::optional<report::ComparedRun> slow;
  {
    const SlowLoss planted;
    slow = run_in(dir / "b", "amp-bf16", 1);
  }
  const report::Comparison comparison = compared({fp32, *slow});
  EXPECT_GE(of(comparison, "amp-bf16").step_ms->median, 20.0);
  EXPECT_LT(of(comparison, "amp-bf16").speedup->median, 0.5);
  EXPECT_LT(of(comparison, "fp32").step_ms->median, of(comparison, "amp-bf16").step_ms->median);
  EXPECT_EQ(comparison.recommended, "fp32");
}

TEST(Compare, APlantedLeakIsSeenInTheMemoryOfItsModeAlone) {
  const TempDir dir;
  const report::ComparedRun clean = run_in(dir / "a", "amp-bf16", 1);
  const report::ComparedRun leaking = run_in(dir / "b", "amp-bf16", 1, /*is_leaking=*/true);
  const report::ComparedRun fp32 = run_in(dir / "c", "fp32", 1);
  const report::Comparison comparison = compared({fp32, leaking});
  const int64_t leaked =
      *of(comparison, "amp-bf16").peak_tensor_bytes - clean.files.summary->peak_tensor_bytes;
  // Each of the 12 steps leaks one; the last one's comes after the last peak.
  EXPECT_GE(leaked, 11 * kMiB);
  EXPECT_LE(leaked, 12 * kMiB);
  EXPECT_GE(of(comparison, "amp-bf16").peak_kinds->temporaries, 11 * kMiB);
  EXPECT_LT(*of(comparison, "amp-bf16").memory_saved, -1.0);
  EXPECT_LT(*of(comparison, "fp32").peak_tensor_bytes, 2 * kMiB);
}

TEST(Compare, TheKindsOfMemoryAddUpToThePeakAndAreThoseOfTheModel) {
  const TempDir dir;
  struct BytesEach {
    const char* mode;
    int64_t weight, state;  // of a parameter, at least
  };
  for (const auto& [mode, weight, state] :
       {BytesEach{"fp32", 4, 8}, BytesEach{"amp-bf16", 2, 8}, BytesEach{"pure-bf16", 2, 4}}) {
    const report::Summary summary = *run_in(dir / mode, mode, 1).files.summary;
    const BytesByKind& kinds = *summary.peak_kinds;
    const int64_t sum = kinds.weights + kinds.gradients + kinds.optimizer_state +
                        kinds.activations + kinds.temporaries;
    EXPECT_EQ(sum, summary.peak_tensor_bytes) << mode;
    EXPECT_GE(kinds.weights, weight * summary.parameters) << mode;
    EXPECT_LE(kinds.weights, weight * summary.parameters + 64 * 100)
        << mode << ": norms and biases in fp32, and what the allocator rounds up";
    EXPECT_GE(kinds.optimizer_state, state * summary.parameters) << mode;
    EXPECT_GT(kinds.activations, 0) << mode;
  }
}

TEST(Compare, TheSameSeedGivesTheSameLossesBitForBit) {
  const TempDir dir;
  const report::ComparedRun a = run_in(dir / "a", "amp-bf16", 3);
  const report::ComparedRun b = run_in(dir / "b", "amp-bf16", 3);
  ASSERT_EQ(a.files.steps.size(), b.files.steps.size());
  for (size_t i = 0; i < a.files.steps.size(); ++i)
    EXPECT_EQ(a.files.steps[i].loss, b.files.steps[i].loss);
  EXPECT_EQ(a.files.summary->val_accuracy, b.files.summary->val_accuracy);
}

TEST(Compare, RefusesModesThatCannotBe) {
  CompareConfig config;
  config.modes = {"fp32", "fp7"};
  EXPECT_THROW_WITH(check_compare(config), "fp7");
  config.modes = {"fp32", "fp8"};
  EXPECT_NO_THROW(check_compare(config));
  config.run.layers = 2;
  EXPECT_THROW_WITH(check_compare(config), "needs 3 layers or more, but there are 2");
  config.modes = {"fp32", "fp32"};
  EXPECT_THROW_WITH(check_compare(config), "--modes names fp32 twice");
}

TEST(Compare, RefusesToFindWhatFitsOfAModelThatIsNoPreset) {
  CompareConfig config;
  config.modes = {"fp32"};
  config.memory = 1 << 30;
  EXPECT_NO_THROW(check_compare(config));
  config.run.layers = 2;
  EXPECT_THROW_WITH(check_compare(config), "cannot be given with an option that changes the model");
  config.run.layers.reset();
  config.run.cast_rules = "softmax=fp32";
  EXPECT_THROW_WITH(check_compare(config), "or --cast-rules");
  config.run.cast_rules.clear();
  config.run.cast_policy = "pytorch-cpu";
  EXPECT_THROW_WITH(check_compare(config), "--cast-policy or");
}

TEST(Compare, RefusesToFindWhatFitsOfALlamaThatIsNoPreset) {
  CompareConfig preset;
  preset.modes = {"fp32"};
  preset.memory = 1 << 30;
  preset.run.model = "llama-nano";
  EXPECT_NO_THROW(check_compare(preset));
  const auto refused = [&](auto change) {
    CompareConfig config = preset;
    change(config.run);
    EXPECT_THROW_WITH(check_compare(config),
                      "cannot be given with an option that changes the model");
  };
  refused([](RunConfig& run) { run.kv_heads = 1; });
  refused([](RunConfig& run) { run.mlp_width = 64; });
  refused([](RunConfig& run) { run.tied = false; });
  refused([](RunConfig& run) { run.norm_eps = 1e-6; });
  refused([](RunConfig& run) { run.rope_base = 5e5; });
  refused([](RunConfig& run) { run.rope_scaling = "none"; });
}

TEST(Compare, RefusesSeedsThatCannotBe) {
  CompareConfig config;
  config.modes = {"fp32"};
  config.seeds = 0;
  EXPECT_THROW_WITH(check_compare(config), "--seeds must be at least 1, but is 0");
  config.seeds = 2;
  config.run.seed = INT64_MAX;
  EXPECT_THROW_WITH(check_compare(config), "leaves no room for the seeds that follow (--seeds 2)");
  EXPECT_THROW_WITH(load_compare("/nowhere"), "holds no comparison to go on with");
}

TEST(Compare, RefusesFilesThatAreSomethingElse) {
  const TempDir dir;
  mezzo::testing::write_file(dir / "run.toml", to_toml({}));
  for (const char* plan :
       {"", "[]", "{\"modes\": 3}", "{\"modes\": [\"fp32\"], \"seeds\": \"two\"}"}) {
    mezzo::testing::write_file(dir / "plan.json", plan);
    EXPECT_THROW_WITH(load_compare(dir.path()), "plan.json is damaged") << plan;
  }
  CompareConfig config;
  config.modes = {"fp32"};
  config.peers = dir / "peers.json";
  for (const char* peers :
       {"{}", "[3]", "[{\"name\": \"PyTorch\"}]", "[{\"name\": 1, \"step_ms\": 2}]"}) {
    mezzo::testing::write_file(config.peers, peers);
    EXPECT_THROW_WITH(check_compare(config), "must hold a JSON array of objects") << peers;
  }
  mezzo::testing::write_file(config.peers, "[{\"name\": \"PyTorch\", \"step_ms\": 3.5}]");
  EXPECT_NO_THROW(check_compare(config));
}

}  // namespace
}  // namespace mezzo::train
