#include "mezzo/train/compare.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "mezzo/base/atomic_file.h"
#include "mezzo/base/check.h"
#include "mezzo/base/folder_lock.h"
#include "mezzo/report/comparison_json.h"
#include "mezzo/report/page.h"
#include "mezzo/train/capacity.h"
#include "mezzo/train/checkpoint.h"
#include "mezzo/train/device.h"
#include "mezzo/train/fp8.h"
#include "mezzo/train/machine.h"
#include "mezzo/train/run_folder.h"
#include "mezzo/train/run_options.h"
#include "mezzo/train/run_parts.h"
#include "mezzo/train/worker.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kWhere = "compare";
constexpr const char* kPlanFile = "plan.json";
constexpr const char* kRunFile = "run.toml";
constexpr const char* kRunning = "running";

// Short enough that a drift of the machine's speed meets every mode, long enough that the caches
// are the mode's own for most of it.
int64_t block_of(int64_t steps) { return std::clamp<int64_t>(steps / 12, 5, 25); }

std::string plan_text(const CompareConfig& config) {
  const Json plan = {{"modes", config.modes},
                     {"seeds", config.seeds},
                     {"interleaved", config.is_interleaved},
                     {"peers", config.peers.string()},
                     {"memory", config.memory}};
  return plan.dump(1) + "\n";
}

/// One run of the comparison: where its files are, and its process while it has one.
class Member {
 public:
  Member(const CompareConfig& config, const std::string& mode, int64_t seed)
      : folder_(config.out / "runs" / fmt::format("{}-seed{}", mode, seed)),
        config_(in_precision(config.run, mode)) {
    run.mode = mode;
    run.seed = config_.seed = seed;
    config_.out = folder_.string();
    config_.diagnose = 0;  // its time and memory are not the mode's
    read();
  }

  void read() { run.files = report::read_run_files(folder_); }

  bool is_over() const {
    const auto& summary = run.files.summary;
    return summary && summary->status != report::Status::kInterrupted;
  }

  void start() {
    if (is_over()) return;
    std::vector<std::string> arguments = {"train", "--resume", folder_.string(), "--paced"};
    if (list_checkpoints(folder_).empty()) {
      fs::remove_all(folder_);
      fs::create_directories(folder_.parent_path());
      write_file_atomically(with_suffix(".toml"), to_toml(config_));
      arguments = {"train", "--config", with_suffix(".toml").string(), "--paced"};
    }
    // Of where it was interrupted: it is under way again.
    fs::remove(folder_ / report::kSummaryFile);
    fs::remove(with_suffix(".log"));
    worker_ = std::make_unique<Worker>(arguments, with_suffix(".log"));
    if (!worker_->wait_until_ready()) finish();
  }

  void advance_to(int64_t step) {
    if (worker_ && !worker_->advance_to(step)) finish();
  }

  void finish() {
    if (!worker_) return;
    const std::optional<std::string> failure = worker_->failure();
    worker_.reset();
    read();
    if (failure && !is_over()) run.failure = *failure;
  }

  report::ComparedRun run;

 private:
  fs::path with_suffix(const char* suffix) const { return folder_.string() + suffix; }

  fs::path folder_;
  RunConfig config_;
  std::unique_ptr<Worker> worker_;
};

class Comparing {
 public:
  Comparing(const CompareConfig& config, const std::function<void(const std::string&)>& say,
            const std::atomic<bool>& stop)
      : config_(config), say_(say), stop_(stop) {
    plan_.modes = config.modes;
    plan_.baseline =
        std::find(config.modes.begin(), config.modes.end(), "fp32") == config.modes.end()
            ? config.modes.front()
            : "fp32";
    plan_.steps = config.run.steps;
    plan_.block = block_of(config.run.steps);
    for (int64_t i = 0; i < config.seeds; ++i) plan_.seeds.push_back(config.run.seed + i);
    for (const int64_t seed : plan_.seeds) {
      for (const std::string& mode : plan_.modes) members_.emplace_back(config, mode, seed);
    }
    started_ = utc_now();
    if (!config.peers.empty()) peers_ = read_file(config.peers);
  }

  CompareResult run() {
    const size_t together = config_.is_interleaved ? config_.modes.size() : 1;
    for (size_t first = 0; first < members_.size() && !stop_; first += together)
      run_in_turn(first, first + together);
    bool is_complete = !stop_;
    for (Member& member : members_) member.finish();
    if (is_complete && config_.memory > 0) is_complete = find_what_fits();
    return {write(is_complete ? "done" : "interrupted"), capacity_, is_complete};
  }

 private:
  void run_in_turn(size_t begin, size_t end) {
    for (size_t i = begin; i < end && !stop_; ++i) members_[i].start();
    for (int64_t step = plan_.block; step < plan_.steps && !stop_; step += plan_.block) {
      for (size_t i = begin; i < end && !stop_; ++i) members_[i].advance_to(step);
      if (stop_) return;
      write(kRunning);
      const std::string mode = end - begin == 1 ? members_[begin].run.mode : "all modes";
      say_(fmt::format("seed {}: {} of {} steps in {}", members_[begin].run.seed, step, plan_.steps,
                       mode));
    }
    for (size_t i = begin; i < end && !stop_; ++i)
      members_[i].advance_to(std::numeric_limits<int64_t>::max());
  }

  /// False: stopped before the end.
  bool find_what_fits() {
    const fs::path file = config_.out / "capacity.json";
    if (fs::exists(file)) {
      capacity_ = report::capacity_of(read_file(file));
      return true;
    }
    write("interrupted");  // as far as it is, if this does not come to its end
    capacity_ = find_capacity(config_.modes, config_.run, config_.memory, say_, stop_);
    if (capacity_) write_file_atomically(file, report::capacity_json(*capacity_));
    return capacity_.has_value();
  }

  report::Comparison write(const std::string& status) {
    std::vector<report::ComparedRun> runs;
    for (Member& member : members_) {
      member.read();
      runs.push_back(member.run);
    }
    const report::Comparison comparison = report::compare_runs(plan_, runs);
    const std::string json = report::comparison_json(facts(status), plan_, runs, comparison);
    write_file_atomically(config_.out / "compare.json", json);
    write_file_atomically(config_.out / "report.html",
                          report::report_page(json, /*is_running=*/status == kRunning));
    return comparison;
  }

  report::ComparisonFacts facts(const std::string& status) const {
    report::ComparisonFacts facts;
    facts.status = status;
    facts.started = started_;
    facts.machine = machine_facts(config_.run);
    facts.versions = version_facts();
    for (const auto& [name, value] : settings_of(config_.run)) {
      if (name != "precision" && name != "seed" && name != "out")
        facts.config.emplace_back(name, value);
    }
    facts.model = model_name(config_.run);
    const models::ModelConfig model = model_config(config_.run);
    facts.parameters = models::parameter_count(model);
    facts.tokens_per_step = config_.run.batch * config_.run.accumulate * model.context;
    facts.is_interleaved = config_.is_interleaved;
    facts.peers = peers_;
    if (capacity_) facts.capacity = report::capacity_json(*capacity_);
    return facts;
  }

  const CompareConfig& config_;
  const std::function<void(const std::string&)>& say_;
  const std::atomic<bool>& stop_;
  report::ComparisonPlan plan_;
  std::vector<Member> members_;
  std::string started_, peers_;
  std::optional<report::Capacity> capacity_;
};

void check_same(const fs::path& file, const std::string& now) {
  if (!fs::exists(file)) return;
  MEZZO_CHECK_USAGE(read_file(file) == now, kWhere,
                    "{} holds another comparison. Hint: take another --out, or go on with that one "
                    "by --resume {}",
                    file.parent_path().string(), file.parent_path().string());
}

// A run would be refused as well, but only when it is begun.
void check_fp8(const RunConfig& run, const PrecisionMode& mode) {
  if (!mode.fp8_products) return;
  const models::ModelConfig shape = model_config(run);
  fp8_scaling_for(mode, run.fp8_scaling, shape, run.batch * shape.context,
                  ready_device(run.device));
}

void check_peers(const fs::path& file) {
  const Json peers = Json::parse(read_file(file), nullptr, /*allow_exceptions=*/false);
  const bool is_list =
      peers.is_array() && std::all_of(peers.begin(), peers.end(), [](const Json& p) {
        return p.is_object() && p.contains("name") && p["name"].is_string() &&
               p.contains("step_ms") && p["step_ms"].is_number();
      });
  MEZZO_CHECK_USAGE(is_list, kWhere,
                    "--peers {} must hold a JSON array of objects with a name and a step_ms",
                    file.string());
}

}  // namespace

void check_compare(const CompareConfig& config) {
  MEZZO_CHECK_USAGE(config.modes.size() >= 1, kWhere, "--modes must name a mode at least");
  std::set<std::string> seen;
  for (const std::string& mode : config.modes) {
    check_step_fits(config.run, precision_mode(mode), at::Device(config.run.device));
    check_fp8(config.run, precision_mode(mode));
    MEZZO_CHECK_USAGE(seen.insert(mode).second, kWhere, "--modes names {} twice", mode);
  }
  MEZZO_CHECK_USAGE(config.seeds >= 1, kWhere, "--seeds must be at least 1, but is {}",
                    config.seeds);
  MEZZO_CHECK_USAGE(config.run.seed <= std::numeric_limits<int64_t>::max() - (config.seeds - 1),
                    kWhere, "--seed {} leaves no room for the seeds that follow (--seeds {})",
                    config.run.seed, config.seeds);
  MEZZO_CHECK_USAGE(config.memory == 0 || config.run.device == "cpu", kWhere,
                    "--memory can be held on a CPU only, but --device is {}", config.run.device);
  const RunConfig& run = config.run;
  const std::vector<const Option*> shape = shape_options();
  const bool is_preset =
      !run.dropout && run.cast_rules.empty() && run.cast_policy == RunConfig().cast_policy &&
      std::none_of(shape.begin(), shape.end(), [&](const Option* o) { return get(run, *o); });
  MEZZO_CHECK_USAGE(
      config.memory == 0 || is_preset, kWhere,
      "--memory tries presets as they are, and cannot be given with an option that changes the "
      "model (--init, --layers, --dropout and their like), nor with --cast-policy or --cast-rules");
  if (!config.peers.empty()) check_peers(config.peers);
}

CompareConfig load_compare(const fs::path& out) {
  const fs::path file = out / kPlanFile, run = out / kRunFile;
  MEZZO_CHECK_USAGE(fs::exists(file) && fs::exists(run), kWhere,
                    "{} holds no comparison to go on with: {} is not there", out.string(),
                    kPlanFile);
  CompareConfig config;
  config.run = config_from_toml(read_file(run), run.string());
  config.out = out;
  try {
    const Json plan = Json::parse(read_file(file));
    config.modes = plan.at("modes").get<std::vector<std::string>>();
    config.seeds = plan.at("seeds").get<int64_t>();
    config.is_interleaved = plan.at("interleaved").get<bool>();
    config.peers = plan.at("peers").get<std::string>();
    config.memory = plan.at("memory").get<int64_t>();
  } catch (const Json::exception& error) {
    detail::fail<Error>(kWhere, "{} is damaged: {}", file.string(), error.what());
  }
  return config;
}

CompareResult compare(const CompareConfig& config,
                      const std::function<void(const std::string& line)>& say,
                      const std::atomic<bool>& stop) {
  check_compare(config);
  // What a run finds in its folder, it removes.
  MEZZO_CHECK_USAGE(fs::exists(config.out / kPlanFile) || holds_nothing(config.out), kWhere,
                    "--out {} holds files, and no comparison. Hint: take another folder",
                    config.out.string());
  check_same(config.out / kPlanFile, plan_text(config));
  check_same(config.out / kRunFile, to_toml(config.run));
  fs::create_directories(config.out);
  const FolderLock lock(config.out);
  write_file_atomically(config.out / kPlanFile, plan_text(config));
  write_file_atomically(config.out / kRunFile, to_toml(config.run));
  return Comparing(config, say, stop).run();
}

}  // namespace mezzo::train
