#pragma once

#include <c10/util/Exception.h>

namespace mezzo {

/// While it lives, libtorch's warnings on this thread go nowhere. The dispatcher, say, warns once a
/// process that a kernel is being replaced, where that is the purpose.
class SilentWarnings {
 private:
  struct Nowhere : c10::WarningHandler {
    void process(const c10::Warning&) override {}
  };
  Nowhere nowhere_;
  c10::WarningUtils::WarningHandlerGuard guard_{&nowhere_};
};

}  // namespace mezzo
