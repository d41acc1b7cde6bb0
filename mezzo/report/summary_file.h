#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "mezzo/report/sink.h"

namespace mezzo::report {

/// "done", "interrupted" or "diverged".
std::string to_string(Status status);

/// The summary as an indented JSON object (docs/run-folder.md has the keys). What is absent is
/// null, except "diverged_at", which is there only if the run diverged.
std::string summary_json(const Summary& summary);

/// The bytes under the kinds' names.
nlohmann::ordered_json json_of(const BytesByKind& kinds);

/// summary.json: written when the run ends, atomically.
class SummaryFile : public Sink {
 public:
  explicit SummaryFile(std::filesystem::path path) : path_(std::move(path)) {}
  std::string name() const override { return path_.filename().string(); }
  /// Throws Error if the file cannot be written.
  void on_end(const Summary& summary) override;

 private:
  std::filesystem::path path_;
};

}  // namespace mezzo::report
