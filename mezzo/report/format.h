#pragma once

#include <cstdint>
#include <string>

#include "mezzo/report/step_record.h"

namespace mezzo::report {

/// A count in few letters: 950, 9.9k, 124k, 1.2M, 3.1G. Not a number: "nan".
std::string format_count(double count);

/// Bytes in few letters, powers of 1024: 512 B, 3.4 KiB, 812 MiB, 1.2 GiB.
std::string format_bytes(int64_t bytes);

/// A time span: 0.4s, 42s, 3m12s, 1h05m, 2d03h; "?" if it is negative or not finite.
std::string format_duration(double seconds);

/// Milliseconds: 3.4 ms, 412 ms, 12.3 s.
std::string format_ms(double ms);

/// With this many decimals; of a NaN without the sign it may have.
std::string format_fixed(double value, int decimals);

/// A loss scale: every digit of a whole number (65536), otherwise the shortest form.
std::string format_scale(double scale);

/// The start of a line about a step, aligned to the width of the last one: "step  120/2000".
std::string format_step(int64_t step, int64_t steps_total);

/// One line about a step, for a log:
///   step  120/2000 | loss 4.1273 | norm 0.981 | scale 65536 | lr 3.0e-04 | 412 ms | 9.9k tok/s
std::string format_step_line(const StepRecord& record, int64_t steps_total);

/// One line about an evaluation: step  120/2000 | val loss 4.2012 | val accuracy 23.45 %
std::string format_eval_line(const EvalRecord& record, int64_t steps_total);

/// Skipped steps, and how many of them the search for the scale explains: "3 skipped", "3 skipped
/// (2 probes)".
std::string format_skips(int64_t skipped, int64_t explained);

/// The note about a skipped step; the remark, if there is one, comes last:
///   step  121 skipped: inf in h.7.mlp.c_fc.weight (+3), scale 65536 -> 32768 | probe: ...
std::string format_skip_note(int64_t step, int64_t steps_total, const std::string& reason,
                             double scale_before, double scale_after, const std::string& remark);

/// The note about a step that was taken with gradients that are not finite:
///   step  121: nan in h.7.mlp.c_fc.weight (+3) | from h.7 down: born in backward there
std::string format_overflow_note(int64_t step, int64_t steps_total, const std::string& reason,
                                 const std::string& remark);

}  // namespace mezzo::report
