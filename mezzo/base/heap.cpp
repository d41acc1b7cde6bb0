#include "mezzo/base/heap.h"

#include <cstdlib>

#include <malloc.h>

namespace mezzo {

void keep_freed_memory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);  // never
  setenv("THP_MEM_ALLOC_ENABLE", "1", /*overwrite=*/0);
}

}  // namespace mezzo
