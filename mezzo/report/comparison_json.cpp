#include "mezzo/report/comparison_json.h"

#include <nlohmann/json.hpp>

#include "mezzo/report/json_number.h"
#include "mezzo/report/summary_file.h"

namespace mezzo::report {
namespace {

using Json = nlohmann::ordered_json;

Json or_null(const std::optional<double>& value) {
  return value ? json_number(*value) : Json(nullptr);
}
template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json spread_or_null(const std::optional<Spread>& spread) {
  if (!spread) return nullptr;
  return {{"median", json_number(spread->median)},
          {"low", json_number(spread->low)},
          {"high", json_number(spread->high)}};
}

Json object_of(const std::vector<std::pair<std::string, std::string>>& pairs) {
  Json object = Json::object();
  for (const auto& [name, value] : pairs) object[name] = value;
  return object;
}

Json table_row(const ModeResult& mode) {
  Json row;
  row["mode"] = mode.mode;
  row["step_ms"] = spread_or_null(mode.step_ms);
  row["speedup"] = spread_or_null(mode.speedup);
  row["memory"] = {{"peak_tensor_bytes", or_null(mode.peak_tensor_bytes)},
                   {"peak_rss_bytes", or_null(mode.peak_rss_bytes)},
                   {"saved", or_null(mode.memory_saved)},
                   {"kinds", mode.peak_kinds ? json_of(*mode.peak_kinds) : Json(nullptr)}};
  row["accuracy"] = {{"relative", or_null(mode.relative_accuracy)},
                     {"absolute", or_null(mode.val_accuracy)},
                     {"val_loss", or_null(mode.val_loss)},
                     {"within_noise", or_null(mode.within_noise)}};
  row["stability"] = {{"skipped_steps", mode.skipped_steps},
                      {"nonfinite_steps", mode.nonfinite_steps},
                      {"smallest_scale", or_null(mode.smallest_scale)},
                      {"final_scale", or_null(mode.final_scale)},
                      {"zero_gradients", or_null(mode.zero_gradients)}};
  row["diverged"] = Json::array();
  for (const auto& [seed, step] : mode.diverged)
    row["diverged"].push_back({{"seed", seed}, {"step", step}});
  row["failures"] = mode.failures;
  return row;
}

std::string state_of(const ComparedRun& run) {
  if (!run.failure.empty()) return "failed";
  if (run.files.summary) return to_string(run.files.summary->status);
  return run.files.steps.empty() ? "waiting" : "running";
}

Json steps_of(const RunFiles& run) {
  Json step = Json::array(), loss = step, norm = step, scale = step, skipped = step, ms = step;
  for (const StepRecord& record : run.steps) {
    step.push_back(record.step);
    loss.push_back(json_number(record.loss));
    norm.push_back(json_number(record.grad_norm));
    scale.push_back(json_number(record.scale));
    skipped.push_back(record.skipped);
    ms.push_back(json_number(record.step_ms));
  }
  return {{"step", step},   {"loss", loss},       {"grad_norm", norm},
          {"scale", scale}, {"skipped", skipped}, {"step_ms", ms}};
}

Json evals_of(const RunFiles& run) {
  Json step = Json::array(), loss = step, accuracy = step;
  for (const EvalRecord& record : run.evals) {
    step.push_back(record.step);
    loss.push_back(json_number(record.val_loss));
    accuracy.push_back(json_number(record.val_accuracy));
  }
  return {{"step", step}, {"val_loss", loss}, {"val_accuracy", accuracy}};
}

Json gradients_of(const RunFiles& run) {
  if (run.gradients.empty()) return nullptr;
  const GradientRecord& last = run.gradients.back();
  return {{"step", last.step},           {"values", last.values},
          {"zeros", last.zeros},         {"zeros_in_16_bits", last.zeros_in_16_bits},
          {"nonfinite", last.nonfinite}, {"first_exponent", last.first_exponent},
          {"counts", last.counts}};
}

Json run_of(const ComparedRun& run) {
  Json json;
  json["mode"] = run.mode;
  json["seed"] = run.seed;
  json["status"] = state_of(run);
  json["failure"] = run.failure;
  const auto& summary = run.files.summary;
  json["diverged_at"] = summary ? or_null(summary->diverged_at) : Json(nullptr);
  json["steps"] = steps_of(run.files);
  json["evals"] = evals_of(run.files);
  json["gradients"] = gradients_of(run.files);
  json["summary"] = summary ? Json::parse(summary_json(*summary)) : Json(nullptr);
  return json;
}

}  // namespace

std::string comparison_json(const ComparisonFacts& facts, const ComparisonPlan& plan,
                            const std::vector<ComparedRun>& runs, const Comparison& comparison) {
  Json json;
  json["schema"] = 1;
  json["kind"] = facts.kind;
  json["status"] = facts.status;
  json["started"] = facts.started;
  json["machine"] = object_of(facts.machine);
  json["versions"] = object_of(facts.versions);
  json["config"] = object_of(facts.config);
  json["model"] = facts.model;
  json["parameters"] = facts.parameters;
  json["tokens_per_step"] = facts.tokens_per_step;
  json["steps"] = plan.steps;
  json["block"] = plan.block;
  json["interleaved"] = facts.is_interleaved;
  json["seeds"] = plan.seeds;
  json["baseline"] = plan.baseline;
  json["modes"] = plan.modes;
  json["table"] = Json::array();
  for (const ModeResult& mode : comparison.modes) json["table"].push_back(table_row(mode));
  json["noise"] = nullptr;
  if (comparison.noise_accuracy && comparison.noise_loss) {
    const auto range = [](const Spread& spread) { return json_number(spread.high - spread.low); };
    json["noise"] = {{"val_accuracy", range(*comparison.noise_accuracy)},
                     {"val_loss", range(*comparison.noise_loss)}};
  }
  json["verdict"] = comparison.verdict;
  json["recommended"] = nullptr;
  if (!comparison.recommended.empty())
    json["recommended"] = {{"mode", comparison.recommended}, {"reason", comparison.reason}};
  json["runs"] = Json::array();
  for (const ComparedRun& run : runs) json["runs"].push_back(run_of(run));
  json["capacity"] = facts.capacity.empty() ? Json(nullptr) : Json::parse(facts.capacity);
  json["peers"] = facts.peers.empty() ? Json::array() : Json::parse(facts.peers);
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace mezzo::report
