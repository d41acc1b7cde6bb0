#include "mezzo/base/checksum.h"

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

// The hashes are what `xxhsum -H2` 0.8.1 prints for the same bytes.
TEST(Checksum, IsWhatXxhsumPrints) {
  EXPECT_EQ(checksum_hex(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(checksum_hex("mezzo"), "51a182b4b1d102c592883652110612c0");
}

TEST(Checksum, OfAFileLongerThanABlockIsThatOfItsBytes) {
  std::string bytes(3'000'000, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 % 256);
  testing::TempDir dir;
  testing::write_file(dir / "f", bytes);
  EXPECT_EQ(file_checksum_hex(dir / "f"), "59fe9035d95abf22fc8f91e23f793eae");
  EXPECT_EQ(checksum_hex(bytes), "59fe9035d95abf22fc8f91e23f793eae");
}

TEST(Checksum, OfAnEmptyFileIsThatOfNoBytes) {
  testing::TempDir dir;
  testing::write_file(dir / "f", "");
  EXPECT_EQ(file_checksum_hex(dir / "f"), checksum_hex(""));
}

TEST(Checksum, NamesTheFileThatIsNotThere) {
  testing::TempDir dir;
  EXPECT_THROW_WITH(file_checksum_hex(dir / "gone"), "gone must be a file, but is not there");
  EXPECT_THROW_WITH(file_checksum_hex(dir.path()), "something else");
}

}  // namespace
}  // namespace mezzo
