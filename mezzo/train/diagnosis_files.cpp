#include "mezzo/train/diagnosis_files.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "mezzo/base/atomic_file.h"
#include "mezzo/report/json_number.h"
#include "mezzo/report/page.h"
#include "mezzo/train/run_folder.h"

namespace mezzo::train {
namespace {

using Json = nlohmann::ordered_json;
using report::json_number;

constexpr auto kReplace = Json::error_handler_t::replace;  // a path need not be UTF-8

// counts[i] numbers have a magnitude of at least 2^(first_exponent + i) and below twice that; zeros
// in front and behind are left out.
Json magnitudes_json(const std::shared_ptr<const numerics::Magnitudes>& magnitudes) {
  if (magnitudes == nullptr) return nullptr;
  const auto& counts = magnitudes->counts;
  const auto is_some = [](int64_t count) { return count > 0; };
  const auto first = std::find_if(counts.begin(), counts.end(), is_some);
  const auto last = std::find_if(counts.rbegin(), counts.rend(), is_some).base();
  return {{"values", magnitudes->values},
          {"zeros", magnitudes->zeros},
          {"nonfinite", magnitudes->nonfinite},
          {"first_exponent", numerics::Magnitudes::kFirstExponent + (first - counts.begin())},
          {"counts", first < last ? std::vector<int64_t>(first, last) : std::vector<int64_t>()}};
}

Json link_json(const numerics::Link& link) {
  return {{"op", link.op},
          {"module", link.module},
          {"direction", to_string(link.direction)},
          {"dtype", c10::toString(link.dtype)},
          {"sizes", link.sizes},
          {"largest", json_number(link.largest)},
          {"values", link.values},
          {"nonfinite", link.nonfinite}};
}

Json part_json(const numerics::PartMagnitudes& part) {
  return {{"stretch", part.stretch},
          {"module", part.module},
          {"parameter", part.parameter},
          {"direction", to_string(part.direction)},
          {"recomputed", part.is_recomputed},
          {"dtype", c10::toString(part.dtype)},
          {"results", part.results},
          {"values", part.values},
          {"zeros", part.zeros},
          {"subnormals", part.subnormals},
          {"nonfinite", part.nonfinite},
          {"largest", json_number(part.largest)},
          {"largest_op", part.largest_op},
          {"median", json_number(part.median)},
          {"low", json_number(part.low)}};
}

Json operand_json(const numerics::Operand& operand) {
  Json json = {{"name", operand.name},
               {"dtype", c10::toString(operand.dtype)},
               {"sizes", operand.sizes},
               {"largest", json_number(operand.largest)}};
  if (operand.value.has_value()) json["value"] = json_number(*operand.value);
  json["magnitudes"] = magnitudes_json(operand.magnitudes);
  return json;
}

Json finding_json(const numerics::Finding& finding) {
  Json json = {{"cause", to_string(finding.cause)},
               {"op", finding.op},
               {"inner", finding.inner},
               {"direction", to_string(finding.direction)},
               {"module", finding.module},
               {"parameter", finding.parameter},
               {"node", finding.node},
               {"forward_op", finding.forward_op},
               {"external", finding.external},
               {"micro_batch", finding.micro_batch},
               {"recomputed", finding.is_recomputed},
               {"swallowed", finding.is_swallowed},
               {"dtype", c10::toString(finding.dtype)},
               {"sizes", finding.sizes},
               {"element", finding.element},
               {"value", json_number(finding.value)},
               {"exact", finding.exact ? json_number(*finding.exact) : Json(nullptr)},
               {"bad_elements", finding.bad_elements},
               {"sample", finding.sample ? Json(*finding.sample) : Json(nullptr)},
               {"chain", finding.chain},
               {"way", Json::array()},
               {"sinks", finding.sinks},
               {"magnitudes", magnitudes_json(finding.magnitudes)},
               {"exact_magnitudes", magnitudes_json(finding.exact_magnitudes)},
               {"note", finding.note},
               {"alike", finding.alike},
               {"operands", Json::array()}};
  for (const numerics::Link& link : finding.way) json["way"].push_back(link_json(link));
  for (const numerics::Operand& operand : finding.operands)
    json["operands"].push_back(operand_json(operand));
  return json;
}

Json remedy_json(const numerics::Remedy& remedy) {
  return {{"proved", remedy.is_proved},
          {"change", remedy.change},
          {"advice", remedy.advice},
          {"outcome", remedy.outcome}};
}

Json to_json(const numerics::Diagnosis& diagnosis) {
  Json json = {
      {"reproduced", diagnosis.is_reproduced ? Json(*diagnosis.is_reproduced) : Json(nullptr)},
      {"not_reproduced", diagnosis.not_reproduced},
      {"ops", diagnosis.ops},
      {"loss", json_number(diagnosis.loss)},
      {"fp32_loss", diagnosis.fp32_loss ? json_number(*diagnosis.fp32_loss) : Json(nullptr)},
      {"findings", Json::array()},
      {"remedies", Json::array()},
      {"parts", Json::array()}};
  for (const numerics::Finding& finding : diagnosis.findings)
    json["findings"].push_back(finding_json(finding));
  for (const numerics::Remedy& remedy : diagnosis.remedies)
    json["remedies"].push_back(remedy_json(remedy));
  for (const numerics::PartMagnitudes& part : diagnosis.parts)
    json["parts"].push_back(part_json(part));
  return json;
}

}  // namespace

std::string diagnosis_json(const numerics::Diagnosis& diagnosis) {
  return to_json(diagnosis).dump(1, ' ', false, kReplace) + "\n";
}

std::string diagnosis_page(const ExaminedStep& step) {
  const auto& findings = step.diagnosis.findings;
  Json page = {{"kind", "diagnosis"},
               {"step", step.number},
               {"model", model_name(step.config)},
               {"precision", step.config.precision},
               {"loss_scale", step.config.loss_scale},
               {"headlines", Json::array()},
               {"diagnosis", to_json(step.diagnosis)},
               {"config", Json::object()}};
  for (const numerics::Finding& finding : findings) page["headlines"].push_back(headline(finding));
  for (const auto& [name, value] : settings_of(step.config)) page["config"][name] = value;
  return report::report_page(page.dump(-1, ' ', false, kReplace), /*is_running=*/false);
}

void write_diagnosis(const std::filesystem::path& folder, const ExaminedStep& step) {
  std::filesystem::create_directories(folder);
  write_file_atomically(folder / "diagnosis.txt", to_text(step.diagnosis));
  write_file_atomically(folder / "diagnosis.json", diagnosis_json(step.diagnosis));
  write_file_atomically(folder / "diagnosis.html", diagnosis_page(step));
}

}  // namespace mezzo::train
