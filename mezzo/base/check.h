#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include <fmt/format.h>

namespace mezzo {

/// Something that the caller can act on: a bad argument, a broken file, a full disk.
/// The text is "[where] rule, but got value. Hint: cure".
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The words of a command or a configuration are off: nothing has been done yet. `mezzo` exits
/// with 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

namespace detail {

template <class E, class... Args>
[[noreturn]] void fail(std::string_view where, fmt::format_string<Args...> format, Args&&... args) {
  throw E(fmt::format("[{}] {}", where, fmt::format(format, std::forward<Args>(args)...)));
}

}  // namespace detail
}  // namespace mezzo

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
