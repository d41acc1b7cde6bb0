#include "mezzo/report/capacity.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "mezzo/base/check.h"

namespace mezzo::report {
namespace {

using Json = nlohmann::ordered_json;

std::string gibibytes(int64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / 0x1p30);
}

}  // namespace

std::string capacity_text(const Capacity& capacity) {
  std::string text = fmt::format("what fits into {}\n{:<10} {:>14} {:>12} {:>16} {:>12}\n",
                                 gibibytes(capacity.budget_bytes), "mode", "largest batch", "peak",
                                 "largest model", "peak");
  for (const Capacity::Row& row : capacity.rows) {
    const bool has_batch = row.largest_batch > 0, has_model = !row.largest_model.empty();
    text += fmt::format("{:<10} {:>14} {:>12} {:>16} {:>12}\n", row.mode,
                        has_batch ? fmt::format("{}", row.largest_batch) : "none",
                        has_batch ? gibibytes(row.batch_peak_bytes) : "-",
                        has_model ? row.largest_model : "none",
                        has_model ? gibibytes(row.model_peak_bytes) : "-");
  }
  return text;
}

std::string capacity_json(const Capacity& capacity) {
  Json json;
  json["budget_bytes"] = capacity.budget_bytes;
  json["rows"] = Json::array();
  for (const Capacity::Row& row : capacity.rows) {
    json["rows"].push_back({{"mode", row.mode},
                            {"largest_batch", row.largest_batch},
                            {"batch_peak_bytes", row.batch_peak_bytes},
                            {"largest_model", row.largest_model},
                            {"model_peak_bytes", row.model_peak_bytes}});
  }
  return json.dump(1) + "\n";
}

Capacity capacity_of(const std::string& text) {
  try {
    const Json json = Json::parse(text);
    Capacity capacity;
    capacity.budget_bytes = json.at("budget_bytes").get<int64_t>();
    for (const Json& row : json.at("rows")) {
      capacity.rows.push_back(
          {row.at("mode").get<std::string>(), row.at("largest_batch").get<int64_t>(),
           row.at("batch_peak_bytes").get<int64_t>(), row.at("largest_model").get<std::string>(),
           row.at("model_peak_bytes").get<int64_t>()});
    }
    return capacity;
  } catch (const Json::exception& error) {
    detail::fail<Error>("capacity", "is no table of what fits: {}", error.what());
  }
}

}  // namespace mezzo::report
