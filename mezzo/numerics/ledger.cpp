#include "mezzo/numerics/ledger.h"

#include <algorithm>
#include <utility>

namespace mezzo::numerics {
namespace {

// Whoever writes into memory does not leave its beginning out.
constexpr int64_t kBeginning = 1024;

uint64_t hash_of_beginning(const at::Tensor& tensor) {
  at::Tensor beginning = tensor;
  while (beginning.dim() > 1 && beginning.numel() > kBeginning) beginning = beginning.select(0, 0);
  if (beginning.dim() == 1) beginning = beginning.slice(0, 0, kBeginning);
  return kernels::content_hash(beginning);
}

}  // namespace

at::Tensor numbers_of(const at::Tensor& tensor) {
  constexpr c10::DispatchKeySet kWrappers(
      {c10::DispatchKey::Python, c10::DispatchKey::Functionalize,
       c10::DispatchKey::FuncTorchGradWrapper, c10::DispatchKey::FuncTorchBatched});
  if (!tensor.defined() || tensor.is_meta() || tensor.is_quantized() || tensor.is_nested() ||
      tensor.key_set().has_any(kWrappers))
    return {};
  at::Tensor numbers = tensor.is_sparse() ? tensor._values() : tensor;
  return numbers.has_storage() ? numbers : at::Tensor();
}

Ledger::Span Ledger::span_of(const at::Tensor& tensor) {
  int64_t reach = tensor.numel() == 0 ? 0 : 1;
  for (int64_t i = 0; i < tensor.dim() && reach > 0; ++i)
    reach += (tensor.size(i) - 1) * tensor.stride(i);
  const auto* begin = static_cast<const char*>(tensor.const_data_ptr());
  return {begin, begin + reach * static_cast<int64_t>(tensor.element_size()),
          reach <= tensor.numel()};
}

Ledger::Memory* Ledger::find(const at::Tensor& tensor) {
  const auto found = memories_.find(tensor.storage().unsafeGetStorageImpl());
  return found == memories_.end() ? nullptr : &found->second;
}

const Ledger::Memory* Ledger::find(const at::Tensor& tensor) const {
  const auto found = memories_.find(tensor.storage().unsafeGetStorageImpl());
  return found == memories_.end() ? nullptr : &found->second;
}

// A storage that is gone keeps its entry and its address: no other can be mistaken for it.
Ledger::Memory& Ledger::enter(const at::Tensor& tensor) {
  const void* key = tensor.storage().unsafeGetStorageImpl();
  const auto found = memories_.find(key);
  if (found != memories_.end()) return found->second;
  return memories_.emplace(key, Memory(tensor.storage().getWeakStorageImpl())).first->second;
}

void Ledger::name(const std::string& name, const at::Tensor& tensor, bool is_parameter) {
  const at::Tensor numbers = numbers_of(tensor);
  if (!numbers.defined()) return;
  Memory& memory = enter(numbers);
  memory.is_external = true;
  memory.is_parameter |= is_parameter;
  if (memory.name.empty()) memory.name = name;  // tied weights: the first
}

void Ledger::forget_writes() {
  std::erase_if(memories_, [](const auto& entry) { return entry.second.name.empty(); });
  for (auto& [key, memory] : memories_) {
    memory.garbage_maker = memory.last_writer = -1;
    memory.bad_writes.clear();
  }
}

Ledger::Origin Ledger::origin(const at::Tensor& tensor, Kinds kinds) {
  const Memory* known = find(tensor);
  if (known == nullptr) {
    Memory& memory = enter(tensor);
    memory.is_external = true;
    known = &memory;
  }
  if (kinds == 0) return {};
  const Span span = span_of(tensor);
  Origin origin;
  Kinds meant = 0, not_meant = 0;
  for (const BadWrite& write : known->bad_writes) {
    if (write.span.end <= span.begin || span.end <= write.span.begin) continue;
    if ((write.kinds & kinds) == 0) continue;
    origin.sources.push_back(write.writer);
    meant |= write.intended;
    not_meant |= write.kinds & static_cast<Kinds>(~write.intended);
  }
  if (origin.sources.empty()) return without_writer(tensor, *known, kinds);
  origin.intended = static_cast<Kinds>(kinds & meant & ~not_meant);
  return origin;
}

Ledger::Origin Ledger::without_writer(const at::Tensor& tensor, const Memory& memory, Kinds kinds) {
  Origin origin;
  if (memory.is_external) {
    origin.place = Origin::Place::kExternal;
    // A mask, or the start of a running minimum, until it does harm. Weights are never meant so.
    if (!memory.is_parameter && (kinds & kNaN) == 0) origin.intended = kinds & kInfinities;
  } else if (memory.garbage_maker >= 0 && (memory.garbage & kinds) != 0 &&
             (memory.last_writer >= 0 || memory.is_untouched(tensor))) {
    origin.place = Origin::Place::kGarbage;
    origin.sources = {memory.garbage_maker};
  } else {
    origin.place = Origin::Place::kUnseen;
  }
  return origin;
}

void Ledger::wrote(const at::Tensor& tensor, Kinds kinds, Kinds intended, int64_t writer) {
  Memory& memory = enter(tensor);
  memory.last_writer = writer;
  const Span span = span_of(tensor);
  if (span.is_dense) {
    std::erase_if(memory.bad_writes, [&](const BadWrite& old) {
      const bool is_covered = span.begin <= old.span.begin && old.span.end <= span.end;
      return is_covered && (kinds == 0 || old.writer < writer);  // not what an op within it wrote
    });
  }
  if (kinds != 0) memory.bad_writes.push_back({writer, span, kinds, intended});
}

void Ledger::made_garbage(const at::Tensor& tensor, Kinds kinds, int64_t maker) {
  Memory& memory = enter(tensor);
  memory.bad_writes.clear();  // a poison's
  memory.last_writer = -1;
  memory.garbage_maker = maker;
  memory.garbage = kinds;
  memory.garbage_hash = hash_of_beginning(tensor);
}

// Code that is no op may have written there, without being seen.
bool Ledger::Memory::is_untouched(const at::Tensor& tensor) const {
  return hash_of_beginning(tensor) == garbage_hash;
}

int64_t Ledger::last_writer(const at::Tensor& tensor) const {
  const Memory* memory = find(tensor);
  return memory == nullptr ? -1 : memory->last_writer;
}

int64_t Ledger::garbage_maker(const at::Tensor& tensor) const {
  const Memory* memory = find(tensor);
  const bool is_garbage = memory != nullptr && memory->garbage_maker >= 0 &&
                          memory->last_writer < 0 && memory->is_untouched(tensor);
  return is_garbage ? memory->garbage_maker : -1;
}

bool Ledger::is_external(const at::Tensor& tensor) const {
  const Memory* memory = find(tensor);
  return memory == nullptr || memory->is_external;
}

bool Ledger::is_parameter(const at::Tensor& tensor) const {
  const Memory* memory = find(tensor);
  return memory != nullptr && memory->is_parameter;
}

std::string Ledger::name_of(const at::Tensor& tensor) const {
  const Memory* memory = find(tensor);
  return memory == nullptr ? "" : memory->name;
}

}  // namespace mezzo::numerics
