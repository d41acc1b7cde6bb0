#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "mezzo/data/token_file.h"
#include "mezzo/report/sink.h"
#include "mezzo/train/run_config.h"

namespace mezzo::train {

/// A run small enough for a unit test: one layer of width 16 on 4000 tokens, a nanoGPT file in
/// `folder`.
struct TinyRun {
  explicit TinyRun(const std::filesystem::path& folder);

  /// With three layers, so that there is one between the first and the last.
  void use_fp8(const std::string& scaling);

  /// A Llama of the same size, with grouped heads, scaled positions and a head of its own.
  void use_llama();

  RunConfig config;
  data::TokenFile tokens;
};

/// Keeps what it hears.
class RecordingSink : public report::Sink {
 public:
  explicit RecordingSink(std::vector<report::StepRecord>& steps, std::vector<std::string>& notes)
      : steps_(steps), notes_(notes) {}
  std::string name() const override { return "recording"; }
  void on_step(const report::StepRecord& record) override { steps_.push_back(record); }
  void on_note(const std::string& text) override { notes_.push_back(text); }

 private:
  std::vector<report::StepRecord>& steps_;
  std::vector<std::string>& notes_;
};

}  // namespace mezzo::train
