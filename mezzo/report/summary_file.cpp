#include "mezzo/report/summary_file.h"

#include <nlohmann/json.hpp>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/report/json_number.h"

namespace mezzo::report {
namespace {

using Json = nlohmann::ordered_json;

Json number_or_null(const std::optional<double>& value) {
  return value ? json_number(*value) : Json(nullptr);
}

}  // namespace

std::string to_string(Status status) {
  switch (status) {
    case Status::kDone:
      return "done";
    case Status::kInterrupted:
      return "interrupted";
    case Status::kDiverged:
      return "diverged";
  }
  MEZZO_INTERNAL_CHECK(false);
  return "";
}

nlohmann::ordered_json json_of(const BytesByKind& kinds) {
  return {{"weights", kinds.weights},
          {"gradients", kinds.gradients},
          {"optimizer_state", kinds.optimizer_state},
          {"activations", kinds.activations},
          {"temporaries", kinds.temporaries}};
}

std::string summary_json(const Summary& summary) {
  Json json;
  json["status"] = to_string(summary.status);
  json["model"] = summary.model;
  json["parameters"] = summary.parameters;
  json["precision"] = summary.precision;
  json["device"] = summary.device;
  json["steps"] = summary.steps;
  json["tokens"] = summary.tokens;
  json["median_step_ms"] = json_number(summary.median_step_ms);
  json["tokens_per_s"] = json_number(summary.tokens_per_s);
  json["peak_tensor_bytes"] = summary.peak_tensor_bytes;
  json["peak_bytes_by_kind"] = summary.peak_kinds ? json_of(*summary.peak_kinds) : Json(nullptr);
  json["peak_rss_bytes"] = summary.peak_rss_bytes;
  json["train_loss"] = json_number(summary.train_loss);
  json["val_loss"] = number_or_null(summary.val_loss);
  json["val_accuracy"] = number_or_null(summary.val_accuracy);
  json["skipped_steps"] = summary.skipped_steps;
  json["explained_skips"] = summary.explained_skips;
  json["final_scale"] = json_number(summary.final_scale);
  if (summary.diverged_at) json["diverged_at"] = *summary.diverged_at;
  // A path or a name that is not UTF-8 must not cost the whole summary.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

void SummaryFile::on_end(const Summary& summary) {
  write_file_atomically(path_, summary_json(summary));
}

}  // namespace mezzo::report
