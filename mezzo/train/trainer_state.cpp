// What of a run a checkpoint holds: taken, written and brought back.
#include <cmath>

#include <fmt/format.h>

#include "mezzo/base/check.h"
#include "mezzo/base/random_state.h"
#include "mezzo/train/trainer.h"

namespace mezzo::train {

namespace fs = std::filesystem;

void Trainer::resume(const fs::path& folder) {
  const TensorMemoryMeter::Aside aside(memory_);  // no step needs what reading does
  const Checkpoint checkpoint = load_run_state(folder);
  MEZZO_CHECK(
      checkpoint.data_fingerprint == data::token_fingerprint(tokens_), "train",
      "{} was trained on other data than {} holds now. Hint: bring the text back as it was, "
      "or begin a new run without --resume",
      folder.string(), config_.data.empty() ? "the default corpus" : config_.data);
  MEZZO_CHECK(
      config_.fp8_scaling != "delayed" || checkpoint.step == 0 || !checkpoint.fp8.empty(), "train",
      "{} holds nothing of what {} steps of delayed FP8 scaling remember (fp8.safetensors). "
      "Hint: go on from another checkpoint",
      folder.string(), checkpoint.step);
  // One after the other, so that never both are in memory twice.
  optimizer_.load_state(load_optimizer_tensors(folder), folder.string());
  optimizer_.load_weights(load_model_tensors(folder), folder.string());
  model_->set_fp8_histories(checkpoint.fp8);
  if (checkpoint.scaler.has_value()) scaler_.load_state_dict(*checkpoint.scaler);
  sampler_.restore(checkpoint.sampler);
  RandomState(checkpoint.rng).restore();
  step_ = checkpoint.step;
  std::error_code none;
  const bool is_own = fs::equivalent(folder, checkpoint_folder(run_dir_, step_), none);
  if (is_own) checkpointed_at_ = step_;
  checkpoints_.go_on_from(is_own ? step_ : step_ - 1);  // an abandoned one is written anew
  skipped_steps_ = checkpoint.skipped_steps;
  explained_skips_ = checkpoint.explained_skips;
  if (skipped_steps_ < step_) train_step_.resume();
  evaluated_at_ = checkpoint.step;
  evaluation_ = {checkpoint.val_loss, checkpoint.val_accuracy};
  losses_ = checkpoint.train_losses;
}

// A checkpoint is what one goes back to: one with broken weights would only push a good one out.
void Trainer::write_checkpoint(bool in_background) {
  evaluate_if_needed();
  if (checkpointed_at_ == step_) return;
  if (!std::isfinite(evaluation_.loss)) {
    sinks_.on_note(fmt::format("no checkpoint at step {}: the held-out loss is not finite", step_));
    return;
  }
  if (in_background) {
    checkpoints_.write_in_background(state());
  } else {
    checkpoints_.write(state());
  }
  checkpointed_at_ = step_;
}

Checkpoint Trainer::state() const {
  Checkpoint checkpoint;
  checkpoint.step = step_;
  checkpoint.skipped_steps = skipped_steps_;
  checkpoint.explained_skips = explained_skips_;
  checkpoint.train_losses = losses_;
  checkpoint.val_loss = evaluation_.loss;
  checkpoint.val_accuracy = evaluation_.accuracy;
  checkpoint.data_fingerprint = data::token_fingerprint(tokens_);
  checkpoint.sampler = sampler_.state();
  checkpoint.scaler = scaler_.state_dict();
  checkpoint.model = optimizer_.model_weights();
  checkpoint.optimizer = optimizer_.state();
  checkpoint.fp8 = model_->fp8_histories();
  checkpoint.rng = RandomState(device_).states();
  return checkpoint;
}

Checkpoint Trainer::snapshot() const {
  Checkpoint copy = state();
  copy.model = optimizer_.weights();
  for (auto* tensors : {&copy.model, &copy.optimizer}) {
    for (auto& [name, tensor] : *tensors) tensor = tensor.clone();
  }
  return copy;
}

void Trainer::begin_at(const Checkpoint& snapshot) {
  optimizer_.load_weights(snapshot.model, "the snapshot");
  if (mode_.fp8_products) model_->set_fp8_histories(snapshot.fp8);
  sampler_.restore(snapshot.sampler);
  RandomState(snapshot.rng).restore();
  if (snapshot.scaler.has_value() && scaler_.is_enabled()) {
    scaler_.load_state_dict(*snapshot.scaler);
    train_step_.resume();
  }
  step_ = snapshot.step;
}

}  // namespace mezzo::train
