#pragma once

#include <string_view>

namespace mezzo::report {

/// The files of mezzo/report/page/, and Chart.js, as the build found them.
extern const std::string_view kPageHtml, kPageCss, kPageJs, kReportJs, kDiagnosisJs, kChartJs;

}  // namespace mezzo::report
