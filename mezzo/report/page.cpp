#include "mezzo/report/page.h"

#include <string_view>

#include "mezzo/base/check.h"
#include "mezzo/report/page_pieces.h"

namespace mezzo::report {
namespace {

// In an HTML script element "</script" and "<!--" end or change what is read; in JSON a "<" can
// only be part of a string.
std::string without_markup(std::string_view json) {
  std::string safe;
  for (const char c : json) {
    if (c == '<') {
      safe += "\\u003c";
    } else {
      safe += c;
    }
  }
  return safe;
}

void fill(std::string& page, std::string_view place, std::string_view text) {
  const size_t at = page.find(place);
  MEZZO_INTERNAL_CHECK(at != std::string::npos);
  page.replace(at, place.size(), text);
}

}  // namespace

std::string report_page(const std::string& json, bool is_running) {
  std::string page(kPageHtml);
  fill(page, "{{REFRESH}}", is_running ? "<meta http-equiv=\"refresh\" content=\"10\">" : "");
  fill(page, "{{STYLE}}", kPageCss);
  // The last first, so that no text that has come in is searched for places.
  fill(page, "{{DIAGNOSIS_JS}}", kDiagnosisJs);
  fill(page, "{{REPORT_JS}}", kReportJs);
  fill(page, "{{PAGE_JS}}", kPageJs);
  fill(page, "{{CHART_JS}}", kChartJs);
  fill(page, "{{DATA}}", without_markup(json));
  return page;
}

}  // namespace mezzo::report
