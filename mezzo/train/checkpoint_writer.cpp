#include "mezzo/train/checkpoint_writer.h"

#include <optional>
#include <utility>

#include <fmt/format.h>

#include <ATen/ops/empty.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "mezzo/kernels/cuda/flavour.h"
#include "mezzo/kernels/cuda/pinned.h"
#include "mezzo/train/run_folder.h"

namespace mezzo::train {
namespace {

namespace fs = std::filesystem;

constexpr auto kTensors = {&Checkpoint::model, &Checkpoint::optimizer, &Checkpoint::fp8,
                           &Checkpoint::rng};

bool is_like(const at::Tensor& own, const at::Tensor& tensor) {
  return own.defined() && own.sizes() == tensor.sizes() &&
         own.scalar_type() == tensor.scalar_type();
}

// Into memory that is not pinned a GPU's copy would be waited for.
at::Tensor on_host_like(const at::Tensor& tensor) {
  if constexpr (kernels::kHasCuda) {
    if (tensor.is_cuda()) return kernels::cuda::pinned_to_keep(tensor);
  }
  return at::empty(tensor.sizes(), tensor.scalar_type());
}

// What the GPU, if the tensors are on one, has been told up to here.
std::optional<c10::Event> all_launched(const Checkpoint& checkpoint) {
  for (const auto tensors : kTensors) {
    for (const auto& [name, tensor] : checkpoint.*tensors) {
      if (!tensor.defined() || tensor.is_cpu()) continue;
      c10::Event event(tensor.device().type());
      event.record(c10::impl::VirtualGuardImpl(tensor.device().type()).getStream(tensor.device()));
      return event;
    }
  }
  return std::nullopt;
}

}  // namespace

CheckpointWriter::CheckpointWriter(fs::path run_dir, int64_t keep,
                                   std::function<void(const std::string&)> note)
    : run_dir_(std::move(run_dir)), keep_(keep), note_(std::move(note)) {}

CheckpointWriter::~CheckpointWriter() { note_failure(); }

void CheckpointWriter::write(const Checkpoint& checkpoint) {
  note_failure();
  abandon_later_ones();
  put(checkpoint);
}

void CheckpointWriter::write_in_background(const Checkpoint& checkpoint) {
  if (note_failure()) return write(checkpoint);  // what fails again is thrown at once
  abandon_later_ones();
  try {
    make_room(checkpoint);
  } catch (const std::exception& error) {
    copy_ = {};
    note_(fmt::format(
        "step {}: training waits for its checkpoint, as there is no room for a copy of it: {}",
        checkpoint.step, error.what()));
    return put(checkpoint);
  }
  copy(checkpoint);
  in_flight_ = std::async(std::launch::async, [this, is_copied = all_launched(checkpoint)] {
    if (is_copied.has_value()) is_copied->synchronize();
    put(copy_);
  });
}

// Not before: who looks into an older checkpoint and thinks better of it still has the newest.
void CheckpointWriter::abandon_later_ones() {
  if (!went_on_from_.has_value()) return;
  const int64_t abandoned = abandon_checkpoints_after(run_dir_, *went_on_from_);
  went_on_from_.reset();
  if (abandoned == 0) return;
  note_(fmt::format(
      "the run went back: {} of its checkpoints, of later steps, now {} abandoned-step-... in {}. "
      "--resume takes them by that name alone, and you may delete them",
      abandoned, abandoned == 1 ? "is" : "are", (run_dir_ / kCheckpoints).string()));
}

// Pinning memory takes long: what was copied to before is taken again where it fits.
void CheckpointWriter::make_room(const Checkpoint& checkpoint) {
  Checkpoint room = checkpoint;
  for (const auto tensors : kTensors) {
    TensorMap& before = copy_.*tensors;
    for (auto& [name, tensor] : room.*tensors) {
      if (!tensor.defined()) continue;  // save_checkpoint() says so
      at::Tensor& own = before[name];
      tensor = is_like(own, tensor) ? own : on_host_like(tensor);
    }
  }
  copy_ = std::move(room);
}

// On the computing stream, which goes on when the copy is made. On a stream of its own it could run
// beside the next forward and backward pass; but a step is launched as one graph, whose optimizer
// would have to wait for it, and what is made for the checkpoint alone, FP8 histories, is freed in
// the order of the computing stream.
void CheckpointWriter::copy(const Checkpoint& checkpoint) {
  for (const auto tensors : kTensors) {
    for (const auto& [name, tensor] : checkpoint.*tensors) {
      if (tensor.defined()) (copy_.*tensors).at(name).copy_(tensor.detach(), /*non_blocking=*/true);
    }
  }
}

void CheckpointWriter::wait() {
  if (in_flight_.valid()) in_flight_.get();
}

// Waits, and says whether the write in flight has failed: that is no reason to lose the next
// checkpoint, too.
bool CheckpointWriter::note_failure() {
  try {
    wait();
    return false;
  } catch (const std::exception& error) {
    note_(fmt::format("a checkpoint was not written: {}", error.what()));
    return true;
  }
}

void CheckpointWriter::put(const Checkpoint& checkpoint) const {
  save_checkpoint(checkpoint_folder(run_dir_, checkpoint.step), checkpoint);
  prune_checkpoints(run_dir_, keep_);
}

}  // namespace mezzo::train
