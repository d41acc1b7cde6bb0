#pragma once

namespace mezzo::kernels {

/// Makes the ops of the namespace mezzo known to libtorch's dispatcher. To be called before one of
/// them is looked up there; mezzo::Autocast and the C++ functions of the ops do so.
void register_ops();

}  // namespace mezzo::kernels
