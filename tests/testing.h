#pragma once

#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

/// The statement throws mezzo::Error (or a subclass), and its text holds `text`.
#define EXPECT_THROW_WITH(statement, text)           \
  EXPECT_THAT([&] { static_cast<void>(statement); }, \
              ::testing::Throws<::mezzo::Error>(     \
                  ::testing::Property(&::mezzo::Error::what, ::testing::HasSubstr(text))))

namespace mezzo::testing {

/// A fresh folder, removed with all it holds at the end of the scope.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& bytes);

}  // namespace mezzo::testing
