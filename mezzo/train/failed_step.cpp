#include "mezzo/train/failed_step.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <ATen/Context.h>

#include "mezzo/amp/autocast.h"
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

RandomState::RandomState(at::Device device) {
  states_.emplace_back(at::kCPU, at::globalContext().defaultGenerator(at::kCPU).get_state());
  if (!device.is_cpu())
    states_.emplace_back(device, at::globalContext().defaultGenerator(device).get_state());
}

void RandomState::restore() const {
  for (const auto& [device, state] : states_) {
    at::Generator generator = at::globalContext().defaultGenerator(device);
    generator.set_state(state);
  }
}

numerics::Patient patient_of(models::GPT2& model, const std::vector<Batch>& batches,
                             const PrecisionMode& mode, double scale) {
  numerics::Patient patient;
  for (const auto& item : model->named_parameters())
    patient.parameters.emplace_back(item.key(), item.value());
  for (size_t i = 0; i < batches.size(); ++i) {
    const std::string suffix = batches.size() == 1 ? "" : fmt::format(".{}", i);
    patient.inputs.emplace_back("tokens" + suffix, batches[i].tokens);
    patient.inputs.emplace_back("targets" + suffix, batches[i].targets);
  }
  patient.step = [model, batches, &mode, scale]() mutable {
    const at::DeviceType device = batches.front().tokens.device().type();
    at::Tensor total;
    for (const Batch& batch : batches) {
      at::Tensor loss;
      {
        const Autocast autocast(device, mode.autocast, mode.autocast.has_value());
        loss = model->loss(batch.tokens, batch.targets) / static_cast<double>(batches.size());
      }
      (loss * scale).backward();
      const at::Tensor part = loss.detach().to(at::kFloat);
      total = total.defined() ? total + part : part;
    }
    return total;
  };
  return patient;
}

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
