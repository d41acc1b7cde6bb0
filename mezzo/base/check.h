#pragma once

#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "mezzo/base/error.h"

namespace mezzo::detail {

template <class E, class... Args>
[[noreturn]] void fail(std::string_view where, fmt::format_string<Args...> format, Args&&... args) {
  throw E(fmt::format("[{}] {}", where, fmt::format(format, std::forward<Args>(args)...)));
}

}  // namespace mezzo::detail

/// The user's mistake: throws mezzo::Error unless `condition`. MEZZO_CHECK(n > 0, "sampler", "n
/// must be > 0, but is {}", n)
#define MEZZO_CHECK(condition, where, ...) \
  (static_cast<bool>(condition) ? void()   \
                                : ::mezzo::detail::fail<::mezzo::Error>(where, __VA_ARGS__))

/// The same for wrong words on a command line or in a configuration file: throws mezzo::UsageError.
#define MEZZO_CHECK_USAGE(condition, where, ...) \
  (static_cast<bool>(condition) ? void()         \
                                : ::mezzo::detail::fail<::mezzo::UsageError>(where, __VA_ARGS__))

/// Our own mistake: what must hold if Mezzo is right.
#define MEZZO_INTERNAL_CHECK(condition)                                                    \
  (static_cast<bool>(condition)                                                            \
       ? void()                                                                            \
       : ::mezzo::detail::fail<::mezzo::Error>(                                            \
             "mezzo", "internal check failed at {}:{}: {}. Please report this.", __FILE__, \
             __LINE__, #condition))
