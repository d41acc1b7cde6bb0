#include "mezzo/train/diagnosis_files.h"

#include <nlohmann/json.hpp>

#include "mezzo/base/atomic_file.h"
#include "mezzo/report/json_number.h"

namespace mezzo::train {
namespace {

using Json = nlohmann::ordered_json;
using report::json_number;

Json operand_json(const numerics::Operand& operand) {
  Json json = {{"name", operand.name},
               {"dtype", c10::toString(operand.dtype)},
               {"sizes", operand.sizes},
               {"largest", json_number(operand.largest)}};
  if (operand.value.has_value()) json["value"] = json_number(*operand.value);
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
               {"note", finding.note},
               {"alike", finding.alike},
               {"operands", Json::array()}};
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

}  // namespace

std::string diagnosis_json(const numerics::Diagnosis& diagnosis) {
  Json json = {
      {"reproduced", diagnosis.is_reproduced ? Json(*diagnosis.is_reproduced) : Json(nullptr)},
      {"not_reproduced", diagnosis.not_reproduced},
      {"ops", diagnosis.ops},
      {"loss", json_number(diagnosis.loss)},
      {"fp32_loss", diagnosis.fp32_loss ? json_number(*diagnosis.fp32_loss) : Json(nullptr)},
      {"findings", Json::array()},
      {"remedies", Json::array()}};
  for (const numerics::Finding& finding : diagnosis.findings)
    json["findings"].push_back(finding_json(finding));
  for (const numerics::Remedy& remedy : diagnosis.remedies)
    json["remedies"].push_back(remedy_json(remedy));
  return json.dump(1) + "\n";
}

void write_diagnosis(const std::filesystem::path& folder, const numerics::Diagnosis& diagnosis) {
  std::filesystem::create_directories(folder);
  write_file_atomically(folder / "diagnosis.txt", to_text(diagnosis));
  write_file_atomically(folder / "diagnosis.json", diagnosis_json(diagnosis));
}

}  // namespace mezzo::train
