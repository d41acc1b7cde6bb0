#pragma once

namespace mezzo {

/// Makes the process keep the memory that large CPU tensors free, and back it by huge pages,
/// instead of giving each tensor back to the system and faulting it in anew: a cast into fresh
/// memory runs at 9 GB/s, into reused memory at 66 GB/s, and a training step on a CPU is full of
/// large temporaries. Sets malloc's mmap and trim thresholds and libtorch's THP_MEM_ALLOC_ENABLE
/// (an environment variable; what the user has set stays). Call it first in main(), before the
/// first tensor. The price: the process does not shrink until it ends.
void keep_freed_memory();

}  // namespace mezzo
