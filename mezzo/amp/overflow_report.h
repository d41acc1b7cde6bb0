#pragma once

#include <string>
#include <vector>

#include "mezzo/amp/gradient_facts.h"

namespace mezzo {

// Words about gradients that are not all finite. Parameters are given in the order of the forward
// pass, as Module::named_parameters() has them where modules are registered as they run. All are
// empty where every gradient is finite.

/// The parameters with the most non-finite elements, at most five, the worst first:
/// "h.0.attn.weight (3 of 20 elements), wte.weight (1 of 64 elements)".
std::string describe_overflow(const std::vector<GradientFacts>& gradients);

/// The one nearest to the loss, which the backward pass met first, and how many more:
/// "inf in h.7.mlp.c_fc.weight (+3)", or "nan in ..." if it has no Inf.
std::string name_overflow(const std::vector<GradientFacts>& gradients);

/// Where they began, as far as that is certain from which parameters are hit; else empty:
///
///   "in the loss or the forward pass"          the loss itself is not finite
///   "from the loss down: born in backward"     every parameter is hit, though the loss is finite
///   "from h.7 down: born in backward there"    all before h.7 are, some of h.7, none after it
std::string overflow_origin(const std::vector<GradientFacts>& gradients, bool is_loss_finite);

}  // namespace mezzo
