#include "mezzo/amp/scaler_state.h"

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <ATen/core/Dict.h>
#include <ATen/core/jit_type.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include "mezzo/base/check.h"
#include "tests/amp/expect_state.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

using testing::expect_state;
using testing::TempDir;

constexpr GradScalerState kState{4096.0, 2.0, 0.5, 2000, 7};

TEST(ScalerState, ReadsAFileOfPythonsTorchSave) {
  expect_state(load_torch_file(MEZZO_TEST_DATA "/scaler_state.pt").value(), kState);
}

TEST(ScalerState, ReadsWhatItWroteBitForBit) {
  const TempDir folder;
  const GradScalerState state{0x1.23456p-3, 1.1, 1.0 / 3.0, (int64_t{1} << 40) + 1, 123456789};
  save_torch_file(state, folder / "state.pt");
  expect_state(load_torch_file(folder / "state.pt").value(), state);
}

TEST(ScalerState, ReplacesAFileOnlyOnceTheNewOneIsWhole) {
  const TempDir folder;
  save_torch_file(kState, folder / "state.pt");
  // What a crash, or a full disk, would leave.
  std::filesystem::create_hard_link(folder / "state.pt", folder / "before.pt");
  save_torch_file(std::nullopt, folder / "state.pt");
  expect_state(load_torch_file(folder / "before.pt").value(), kState);
  EXPECT_FALSE(load_torch_file(folder / "state.pt").has_value());
}

TEST(ScalerState, OfADisabledScalerIsAnEmptyDict) {
  const TempDir folder;
  save_torch_file(std::nullopt, folder / "state.pt");
  EXPECT_FALSE(load_torch_file(folder / "state.pt").has_value());
}

TEST(ScalerState, PythonReadsWhatItWrote) {
  const std::string python = MEZZO_SOURCE_DIR "/.venv-peers/bin/python";
  if (!std::filesystem::exists(python)) GTEST_SKIP() << "no Python peer: scripts/setup.sh peers";
  const TempDir folder;
  save_torch_file(kState, folder / "state.pt");
  const std::string command =
      python + " " MEZZO_SOURCE_DIR "/tests/reference/make_scaler_goldens.py --check " +
      (folder / "state.pt").string() + " > " + (folder / "state.json").string();
  ASSERT_EQ(std::system(command.c_str()), 0);
  const auto read = nlohmann::json::parse(testing::read_file(folder / "state.json"));
  EXPECT_EQ(read, nlohmann::json({{"scale", 4096.0},
                                  {"growth_factor", 2.0},
                                  {"backoff_factor", 0.5},
                                  {"growth_interval", 2000},
                                  {"_growth_tracker", 7}}));
  EXPECT_TRUE(read["growth_interval"].is_number_integer());
}

TEST(ScalerState, NamesWhatIsWrongWithAFile) {
  const TempDir folder;
  EXPECT_THROW_WITH(load_torch_file(folder / "none.pt"), "cannot read");
  testing::write_file(folder / "text.pt", "no archive");
  EXPECT_THROW_WITH(load_torch_file(folder / "text.pt"), "is not a file of torch.save");
  const std::string whole = testing::read_file(MEZZO_TEST_DATA "/scaler_state.pt");
  testing::write_file(folder / "half.pt", whole.substr(0, whole.size() / 2));
  EXPECT_THROW_WITH(load_torch_file(folder / "half.pt"), "is not a file of torch.save");
  EXPECT_THROW_WITH(save_torch_file(kState, folder / "no folder" / "state.pt"),
                    "No such file or directory");
}

TEST(ScalerState, NamesAMissingKeyAndAValueThatIsNoNumber) {
  const TempDir folder;
  const auto load = [&](const c10::IValue& value) {
    const std::vector<char> bytes = torch::jit::pickle_save(value);
    testing::write_file(folder / "state.pt", {bytes.begin(), bytes.end()});
    return load_torch_file(folder / "state.pt");
  };
  c10::impl::GenericDict dict(c10::StringType::get(), c10::AnyType::get());
  EXPECT_FALSE(load(dict).has_value());  // a disabled scaler's
  dict.insert("growth_interval", 2000);
  EXPECT_THROW_WITH(load(dict), "the key \"scale\" is missing");
  dict.insert("scale", 8.0);
  dict.insert("growth_factor", "two");
  EXPECT_THROW_WITH(load(dict), "\"growth_factor\" must be a number");
  EXPECT_THROW_WITH(load(3.0), "must hold a dict");
}

}  // namespace
}  // namespace mezzo
