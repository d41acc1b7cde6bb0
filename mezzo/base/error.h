#pragma once

#include <stdexcept>

namespace mezzo {

/// Something that the caller can act on: a bad argument, a broken file, a full disk.
/// The text is "[where] rule, but got value. Hint: cure".
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The words of a command or a configuration are off, or what they name is no text, token data or
/// run: nothing has been done yet. `mezzo` exits with 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

}  // namespace mezzo
