#include "mezzo/data/corpus.h"

#include <algorithm>
#include <map>
#include <set>

#include "mezzo/base/check.h"
#include "mezzo/data/text_files.h"
#include "mezzo/data/utf8.h"
#include "tests/testing.h"

namespace mezzo::data {
namespace {

using mezzo::testing::TempDir;
using mezzo::testing::write_file;
using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

std::vector<std::string> names_of(const Corpus& corpus) {
  std::vector<std::string> names;
  for (const auto& document : corpus.documents) names.push_back(document.path.filename().string());
  return names;
}

// Enough small files that none is a large part of the corpus.
void write_files(const TempDir& folder, int count) {
  for (int i = 0; i < count; ++i) {
    write_file(folder / fmt::format("file{:03}.txt", i), fmt::format("text number {:03}\n", i));
  }
}

// The pieces by their place in the file.
std::map<int64_t, std::string> pieces_of(const Corpus& corpus) {
  std::map<int64_t, std::string> pieces;
  for (const auto& document : corpus.documents) {
    pieces[document.offset] = read_document(document);
  }
  return pieces;
}

std::string joined(const std::map<int64_t, std::string>& pieces) {
  std::string text;
  for (const auto& [offset, piece] : pieces) text += piece;
  return text;
}

TEST(Corpus, TakesTheChosenFilesOfAllFoldersButHiddenOnes) {
  const TempDir folder;
  std::filesystem::create_directories(folder / "deep");
  std::filesystem::create_directories(folder / ".git");
  for (const char* name : {"a.py", "b.txt", "deep/c.py", ".hidden.py", ".git/d.py", "e.pyc"}) {
    write_file(folder / name, "x\n");
  }
  EXPECT_THAT(names_of(scan_corpus(folder.path(), {.extensions = {"py"}})),
              UnorderedElementsAre("a.py", "c.py"));
  EXPECT_THAT(names_of(scan_corpus(folder.path(), {.extensions = {".py", "txt"}})),
              UnorderedElementsAre("a.py", "b.txt", "c.py"));
  EXPECT_EQ(scan_corpus(folder.path()).documents.size(), 4u);
  EXPECT_THROW_WITH(scan_corpus(folder.path(), {.extensions = {"rs"}}),
                    "files that end in rs, but there is none");
}

TEST(Corpus, SkipsWhatIsNoTextAndSaysWhy) {
  const TempDir folder;
  write_file(folder / "good.txt", "fine \u00e9\n");
  write_file(folder / "latin1.txt", "caf\xE9 au lait");
  write_file(folder / "binary", std::string("ab\0c", 4));
  write_file(folder / "empty.txt", "");
  const Corpus corpus = scan_corpus(folder.path());
  EXPECT_THAT(names_of(corpus), ElementsAre("good.txt"));
  EXPECT_EQ(corpus.files, 1);
  EXPECT_EQ(corpus.bytes, 8);
  std::map<std::string, std::string> reasons;
  for (const auto& file : corpus.skipped) reasons[file.path.filename().string()] = file.reason;
  EXPECT_EQ(reasons["latin1.txt"], "byte 3 is not UTF-8");
  EXPECT_EQ(reasons["binary"], "byte 2 is NUL");
  EXPECT_EQ(reasons["empty.txt"], "is empty");
}

TEST(Corpus, ALinkToItselfIsSkippedWhereItIsWanted) {
  const TempDir folder;
  write_file(folder / "a.rs", "fine\n");
  std::filesystem::create_symlink("loop", folder / "loop");
  EXPECT_TRUE(scan_corpus(folder.path(), {.extensions = {"rs"}}).skipped.empty());
  std::filesystem::create_symlink("loop.rs", folder / "loop.rs");
  const Corpus corpus = scan_corpus(folder.path(), {.extensions = {"rs"}});
  EXPECT_THAT(names_of(corpus), ElementsAre("a.rs"));
  ASSERT_EQ(corpus.skipped.size(), 1u);
  EXPECT_EQ(corpus.skipped[0].reason, "cannot be read: Too many levels of symbolic links");
}

TEST(Corpus, AGivenFileThatIsNoTextIsAnError) {
  const TempDir folder;
  write_file(folder / "latin1.txt", "caf\xE9 au lait");
  EXPECT_THROW_WITH(scan_corpus(folder / "latin1.txt"),
                    "must be UTF-8 text, but byte 3 is not UTF-8. Hint: convert it with iconv");
  write_file(folder / "empty.txt", "");
  try {
    scan_corpus(folder / "empty.txt");
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), ::testing::EndsWith("but is empty"));
  }
  write_file(folder / "tokens", std::string("ab\0c", 4));
  EXPECT_THROW_WITH(scan_corpus(folder / "tokens"), "give it a name that ends in .bin");
  std::filesystem::remove(folder / "tokens");
  std::filesystem::remove(folder / "empty.txt");
  EXPECT_THROW_WITH(scan_corpus(folder.path()),
                    "must hold a text file, but all 1 files were skipped");
  EXPECT_THROW_WITH(scan_corpus(folder / "none"), "but is not there");
}

TEST(Corpus, TheOrderIsShuffledAndFixedByTheSeed) {
  const TempDir folder;
  write_files(folder, 100);
  const auto order = names_of(scan_corpus(folder.path(), {.shuffle_seed = 1, .threads = 1}));
  EXPECT_EQ(names_of(scan_corpus(folder.path(), {.shuffle_seed = 1, .threads = 4})), order);
  EXPECT_NE(names_of(scan_corpus(folder.path(), {.shuffle_seed = 2})), order);
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
  EXPECT_EQ(std::set<std::string>(order.begin(), order.end()).size(), 100u);
}

TEST(Corpus, AFileAloneIsCutAtBlankLines) {
  for (const std::string end : {"\n", "\r\n"}) {
    const TempDir folder;
    std::string text;
    for (int i = 0; i < 3000; ++i)
      text += fmt::format("line {}{}{}", i, end, i % 7 == 0 ? end : "");
    write_file(folder / "book.txt", text);
    const auto pieces = pieces_of(scan_corpus(folder / "book.txt"));
    EXPECT_GT(pieces.size(), 20u);
    EXPECT_EQ(joined(pieces), text);
    for (const auto& [offset, piece] : pieces)
      EXPECT_TRUE(piece.ends_with(end + end) || piece.ends_with("line 2999" + end));
  }
}

TEST(Corpus, WithoutBlankLinesPiecesEndAtLinesAndWithoutLinesBetweenCharacters) {
  const TempDir folder;
  std::string lines;
  while (lines.size() < 20'000) lines += "one line after another\n";
  write_file(folder / "lines.txt", lines);
  const auto of_lines = pieces_of(scan_corpus(folder / "lines.txt"));
  EXPECT_EQ(joined(of_lines), lines);
  for (const auto& [offset, piece] : of_lines) EXPECT_EQ(piece.back(), '\n');

  std::string unbroken = "x";
  while (unbroken.size() < 20'000) unbroken += "\U0001F600";
  write_file(folder / "unbroken.txt", unbroken);
  const auto of_unbroken = pieces_of(scan_corpus(folder / "unbroken.txt"));
  EXPECT_GT(of_unbroken.size(), 10u);
  EXPECT_EQ(joined(of_unbroken), unbroken);
  for (const auto& [offset, piece] : of_unbroken) EXPECT_FALSE(find_invalid_utf8(piece));
}

TEST(Corpus, OnlyALargeFileOfAFolderIsCut) {
  const TempDir folder;
  write_files(folder, 50);
  write_file(folder / "large.txt", std::string(5000, 'a'));
  const auto names = names_of(scan_corpus(folder.path()));
  EXPECT_EQ(std::count(names.begin(), names.end(), "large.txt"), 5);
  EXPECT_EQ(names.size(), 55u);
}

TEST(Corpus, AFileThatShrankSinceTheScanIsAnError) {
  const TempDir folder;
  write_file(folder / "a.txt", "some text");
  const Corpus corpus = scan_corpus(folder.path());
  write_file(folder / "a.txt", "some");
  EXPECT_THROW_WITH(read_document(corpus.documents[0]), "was it changed meanwhile?");
}

TEST(Corpus, TheFingerprintFollowsNamesSizesAndTimes) {
  const TempDir folder;
  write_files(folder, 3);
  const auto print = [&] { return corpus_fingerprint(folder.path()); };
  const uint64_t before = print();
  EXPECT_EQ(print(), before);
  const auto file = folder / "file001.txt";
  const auto time = std::filesystem::last_write_time(file);
  std::filesystem::last_write_time(file, time + std::chrono::seconds(1));
  EXPECT_NE(print(), before);
  std::filesystem::last_write_time(file, time);
  EXPECT_EQ(print(), before);
  std::filesystem::rename(file, folder / "file004.txt");
  EXPECT_NE(print(), before);
}

TEST(TextFiles, ACharacterAcrossTheReadBoundaryIsText) {
  const TempDir folder;
  std::string text((4 << 20) - 1, 'a');
  text += "\u00e9 and on\n";
  write_file(folder / "a.txt", text);
  EXPECT_FALSE(why_not_text(list_text_files(folder / "a.txt", {})[0]));
  text.back() = '\xFF';
  write_file(folder / "a.txt", text);
  EXPECT_EQ(why_not_text(list_text_files(folder / "a.txt", {})[0]),
            fmt::format("byte {} is not UTF-8", text.size() - 1));
}

}  // namespace
}  // namespace mezzo::data
