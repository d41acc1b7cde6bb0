// The half of the faults that no rule is tuned on: the other known ones, and new ones.

#include <iterator>

#include "tests/numerics/fault.h"

namespace mezzo::numerics::faults {

std::vector<Fault> held_out_faults() {
  std::vector<Fault> all;
  for (const auto& theme : {held_out_attention, held_out_norms, held_out_losses, held_out_layers,
                            held_out_backward, held_out_optimizer, held_out_outside}) {
    std::vector<Fault> faults = theme();
    all.insert(all.end(), std::make_move_iterator(faults.begin()),
               std::make_move_iterator(faults.end()));
  }
  return all;
}

}  // namespace mezzo::numerics::faults
