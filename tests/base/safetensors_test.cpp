#include "mezzo/base/safetensors.h"

#include <cstring>

#include <ATen/ATen.h>

#include "mezzo/base/check.h"
#include "tests/testing.h"

namespace mezzo {
namespace {

const std::filesystem::path kGolden =
    std::filesystem::path(MEZZO_TEST_DATA) / "reference.safetensors";

// What tests/reference/make_safetensors_golden.py writes.
SafeTensors reference_content() {
  SafeTensors content;
  content.metadata = {{"format", "torch"}};
  auto& tensors = content.tensors;
  tensors["f64"] = at::tensor({0.1, -2.0}, at::kDouble);
  tensors["f32"] = at::arange(6, at::kFloat).reshape({2, 3});
  tensors["f16"] = at::tensor({0.5, 65504.0}, at::kDouble).to(at::kHalf);
  tensors["bf16"] = at::tensor({1.0, -2.5}, at::kDouble).to(at::kBFloat16);
  tensors["i64"] = at::tensor({-(int64_t{1} << 40)}, at::kLong);
  tensors["i32"] = at::tensor({-70000}, at::kInt);
  tensors["i16"] = at::tensor({-1, 2, 300}, at::kInt).to(at::kShort);
  tensors["i8"] = at::tensor({-1, 2, 127}, at::kInt).to(at::kChar);
  tensors["u8"] = at::tensor({0, 1, 255}, at::kInt).to(at::kByte);
  tensors["bool"] = at::tensor({1, 0, 1}, at::kInt).to(at::kBool);
  tensors["empty"] = at::empty({0, 4});
  tensors["scalar"] = at::scalar_tensor(7.0);
  tensors["häuser \"quoted\""] = at::tensor({42}, at::kInt).to(at::kByte);
  return content;
}

void expect_equal(const SafeTensors& got, const SafeTensors& want) {
  EXPECT_EQ(got.metadata, want.metadata);
  ASSERT_EQ(got.tensors.size(), want.tensors.size());
  for (const auto& [name, tensor] : want.tensors) {
    ASSERT_TRUE(got.tensors.count(name)) << name;
    const at::Tensor& other = got.tensors.at(name);
    EXPECT_EQ(other.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_EQ(other.sizes(), tensor.sizes()) << name;
    EXPECT_TRUE(at::equal(other, tensor)) << name;
  }
}

/// A file with this header (its length set right) and these data bytes.
std::filesystem::path file_with(const testing::TempDir& dir, const std::string& header,
                                const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  testing::write_file(dir / "x.safetensors", bytes + header + data);
  return dir / "x.safetensors";
}

TEST(SafeTensors, RoundTripKeepsEveryDtypeShapeAndNote) {
  testing::TempDir dir;
  save_safetensors(dir / "a", reference_content());
  expect_equal(load_safetensors(dir / "a"), reference_content());
}

TEST(SafeTensors, ReadsWhatPythonWrites) {
  expect_equal(load_safetensors(kGolden), reference_content());
}

TEST(SafeTensors, WritesByteForByteWhatPythonWrites) {
  testing::TempDir dir;
  save_safetensors(dir / "a", reference_content());
  EXPECT_EQ(testing::read_file(dir / "a"), testing::read_file(kGolden));
}

TEST(SafeTensors, WritesTheElementsOfANonContiguousTensorInOrder) {
  testing::TempDir dir;
  const at::Tensor base = at::arange(24, at::kFloat).reshape({4, 6});
  save_safetensors(dir / "a", {{{"t", base.t()}, {"every other", base.slice(1, 0, 6, 2)}}, {}});
  const SafeTensors back = load_safetensors(dir / "a");
  EXPECT_TRUE(at::equal(back.tensors.at("t"), base.t()));
  EXPECT_TRUE(at::equal(back.tensors.at("every other"), base.slice(1, 0, 6, 2)));
  EXPECT_TRUE(back.tensors.at("t").is_contiguous());
}

TEST(SafeTensors, KeepsTheBitsOfNanAndNegativeZero) {
  testing::TempDir dir;
  const at::Tensor odd = at::tensor({0x7fc12345, int(0x80000000), 0x7f800000}, at::kInt);
  save_safetensors(dir / "a", {{{"odd", odd.view(at::kFloat)}}, {}});
  EXPECT_TRUE(at::equal(load_safetensors(dir / "a").tensors.at("odd").view(at::kInt), odd));
}

TEST(SafeTensors, TensorsOutliveTheFile) {
  testing::TempDir dir;
  save_safetensors(dir / "a", {{{"x", at::ones({1000})}}, {}});
  SafeTensors content = load_safetensors(dir / "a");
  testing::write_file(dir / "a", std::string(5000, 'z'));
  EXPECT_EQ(content.tensors.at("x").sum().item<float>(), 1000.0f);
}

TEST(SafeTensors, AFileWithoutTensorsIsAFile) {
  testing::TempDir dir;
  save_safetensors(dir / "a", {{}, {{"note", "nothing here"}}});
  expect_equal(load_safetensors(dir / "a"), {{}, {{"note", "nothing here"}}});
}

SafeTensors with_a_late(const at::Tensor& made, std::map<std::string, LateTensor>& late) {
  late["late"] = {at::kFloat, {2, 3}, [made] { return made; }};
  return {{{"a", at::ones({4})}, {"z", at::ones({2}, at::kHalf)}}, {{"format", "pt"}}};
}

TEST(SafeTensors, ATensorThatIsMadeLateGivesTheSameFile) {
  testing::TempDir dir;
  const at::Tensor made = at::arange(6, at::kFloat).view({2, 3});
  std::map<std::string, LateTensor> late;
  SafeTensors content = with_a_late(made, late);
  save_safetensors(dir / "late", content, late);
  content.tensors["late"] = made;
  save_safetensors(dir / "whole", content);
  EXPECT_EQ(testing::read_file(dir / "late"), testing::read_file(dir / "whole"));
}

TEST(SafeTensors, ATensorThatIsMadeLateMustBeAsAnnouncedAndTheOnlyOneOfItsName) {
  testing::TempDir dir;
  std::map<std::string, LateTensor> late;
  SafeTensors content = with_a_late(at::ones({3, 2}), late);
  EXPECT_THROW_WITH(save_safetensors(dir / "a", content, late),
                    "tensor \"late\" must be made as it was announced");
  content.tensors["late"] = at::ones({2, 3});
  EXPECT_THROW_WITH(save_safetensors(dir / "a", content, late), "one tensor \"late\", not two");
  EXPECT_FALSE(std::filesystem::exists(dir / "a"));
}

TEST(SafeTensors, SaysWhichTensorCannotBeWritten) {
  testing::TempDir dir;
  const auto save = [&](const std::string& name, const at::Tensor& tensor) {
    save_safetensors(dir / "a", {{{name, tensor}}, {}});
  };
  EXPECT_THROW_WITH(save("none", at::Tensor()), "tensor \"none\" must be defined");
  EXPECT_THROW_WITH(save("c", at::ones({1}, at::kComplexFloat)), "tensor \"c\" must be of fp64");
  EXPECT_THROW_WITH(save("s", at::ones({2, 2}).to_sparse()), "tensor \"s\" must be dense");
  EXPECT_THROW_WITH(save("__metadata__", at::ones({1})), "must not be named \"__metadata__\"");
  EXPECT_THROW_WITH(save("\xff", at::ones({1})), "must be UTF-8");
  EXPECT_FALSE(std::filesystem::exists(dir / "a"));
}

TEST(SafeTensors, SaysWhatIsWrongWithABrokenFile) {
  testing::TempDir dir;
  const auto load = [&](const std::string& header, size_t data_bytes) {
    return load_safetensors(file_with(dir, header, std::string(data_bytes, '\x02')));
  };
  const auto tensor = [](const std::string& dtype, const std::string& shape,
                         const std::string& offsets) {
    return R"({"w":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
           offsets + "}}";
  };
  EXPECT_NO_THROW(load(tensor("F32", "[2]", "[0,8]"), 8)) << "the others differ from this by one";
  EXPECT_THROW_WITH(load(tensor("F32", "[2]", "[0,8]"), 7), "truncated or altered");
  EXPECT_THROW_WITH(load(tensor("F32", "[2]", "[0,8]"), 9), "the file holds 9 bytes of data");
  EXPECT_THROW_WITH(load(tensor("F33", "[2]", "[0,8]"), 8), "but has \"F33\"");
  EXPECT_THROW_WITH(load(tensor("F32", "[3]", "[0,8]"), 8), "shape and dtype take 12 bytes");
  EXPECT_THROW_WITH(load(tensor("F32", "[-2]", "[0,8]"), 8), "but one is -2");
  EXPECT_THROW_WITH(load(tensor("F32", "[2.0]", "[0,8]"), 8), "but one is 2.0");
  EXPECT_THROW_WITH(load(tensor("F32", "[2]", "[8,0]"), 8), "data_offsets are [8, 0]");
  EXPECT_THROW_WITH(load(tensor("F32", "[2]", "[0,8,9]"), 8), "must be [begin, end], but is 3");
  EXPECT_THROW_WITH(load(tensor("F32", "[2]", "[1,9]"), 9),
                    "must begin at byte 0, but begins at 1");
  EXPECT_THROW_WITH(load(tensor("F32", "[0,4611686018427387904,4]", "[0,0]"), 0),
                    "more elements than can be counted");
  EXPECT_THROW_WITH(load(tensor("BOOL", "[8]", "[0,8]"), 8), "a BOOL must be 0 or 1");
  EXPECT_THROW_WITH(load(R"({"w":{"shape":[2],"data_offsets":[0,8]}})", 8),
                    "must have a \"dtype\"");
  EXPECT_THROW_WITH(load(R"({"w":3})", 8), "tensor \"w\" must be an object, but is number");
  EXPECT_THROW_WITH(load(R"({"__metadata__":{"a":1}})", 0), "__metadata__ \"a\" must be a string");
  EXPECT_THROW_WITH(load("[]", 0), "must be a JSON object, but is array");
  EXPECT_THROW_WITH(load("{", 0), "but is not JSON");
}

TEST(SafeTensors, SaysThatTensorsOverlapOrLeaveAGap) {
  testing::TempDir dir;
  const auto load = [&](const std::string& offsets_of_b, size_t data_bytes) {
    const std::string header = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                               R"("b":{"dtype":"U8","shape":[4],"data_offsets":)" +
                               offsets_of_b + "}}";
    return load_safetensors(file_with(dir, header, std::string(data_bytes, 'x')));
  };
  EXPECT_NO_THROW(load("[4,8]", 8));
  EXPECT_THROW_WITH(load("[3,7]", 7), "\"b\" must begin at byte 4, but begins at 3");
  EXPECT_THROW_WITH(load("[5,9]", 9), "\"b\" must begin at byte 4, but begins at 5");
}

TEST(SafeTensors, NamesTheFileThatIsNoSafetensorsFile) {
  testing::TempDir dir;
  EXPECT_THROW_WITH(load_safetensors(dir / "gone.safetensors"), "gone.safetensors] must be a file");
  testing::write_file(dir / "short", "1234567");
  EXPECT_THROW_WITH(load_safetensors(dir / "short"), "at least 8 bytes, but this has 7");
  testing::write_file(dir / "text", "once upon a time there was a text file");
  EXPECT_THROW_WITH(load_safetensors(dir / "text"), "not a safetensors file");
}

}  // namespace
}  // namespace mezzo
