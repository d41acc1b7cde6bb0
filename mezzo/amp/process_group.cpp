#include "mezzo/amp/process_group.h"

#include <vector>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "mezzo/base/check.h"

namespace mezzo {

std::function<void(at::Tensor&)> max_over(const c10::intrusive_ptr<c10d::ProcessGroup>& group) {
  MEZZO_CHECK(group.defined(), "max_over", "the process group must not be null");
  return [group](at::Tensor& tensor) {
    std::vector<at::Tensor> tensors = {tensor};
    c10d::AllreduceOptions options;
    options.reduceOp = c10d::ReduceOp::MAX;
    group->allreduce(tensors, options)->wait();
  };
}

}  // namespace mezzo
