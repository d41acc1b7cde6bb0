#include "mezzo/report/page.h"

#include "tests/testing.h"

namespace mezzo::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Page, DataIsNeverMarkup) {
  const std::string json = R"({"kind": "train", "model": "</script><!--<script>evil"})";
  const std::string page = report_page(json, /*is_running=*/false);
  EXPECT_THAT(page, HasSubstr(R"("\u003c/script>\u003c!--\u003cscript>evil")"));
  EXPECT_THAT(page, Not(HasSubstr("</script><!--")));
  EXPECT_THAT(page, Not(HasSubstr("<script>evil")));
}

TEST(Page, DataIsNotSearchedForPlaces) {
  EXPECT_THAT(report_page(R"({"model": "{{PAGE_JS}}"})", false),
              HasSubstr(R"({"model": "{{PAGE_JS}}"})"));
}

TEST(Page, LoadsItselfAnewWhileTheRunIsOn) {
  const std::string refresh = R"(<meta http-equiv="refresh")";
  EXPECT_THAT(report_page("{}", /*is_running=*/true), HasSubstr(refresh));
  EXPECT_THAT(report_page("{}", /*is_running=*/false), Not(HasSubstr(refresh)));
}

}  // namespace
}  // namespace mezzo::report
