#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace mezzo::kernels {

/// Makes the ops of the namespace mezzo known to libtorch's dispatcher. To be called before one of
/// them is looked up there; mezzo::Autocast and the C++ functions of the ops do so.
void register_ops();

/// The op of this name, "mezzo::gelu_linear", with the C++ type of its kernel.
template <class Kernel>
c10::TypedOperatorHandle<Kernel> typed_op(const char* name) {
  register_ops();
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Kernel>();
}

}  // namespace mezzo::kernels
