"""report.html as a browser shows it: pages of real runs, opened from disk in headless Chromium.

MEZZO names the binary, CHROMIUM the browser (Debian's if not given).
"""

import html
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

SKIPPED = 77  # as ctest knows it
MEZZO = os.environ["MEZZO"]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
TINY = ["--layers", "1", "--heads", "2", "--width", "16", "--context", "16", "--vocab-size", "300", "--batch", "4",
        "--eval-batches", "2", "--eval-every", "8"]
TEXT = "".join(f"def f{i}(x):\n    return x + {i}\n\n" for i in range(3000))


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        (cls.folder / "text.txt").write_text(TEXT)
        cls.mezzo("compare", "--modes", "fp32,amp-fp16,pure-fp16", "--steps", "60", "--lr", "1e4", "--clip", "0", "--out",
                  cls.folder / "compared", "--seeds", "2")
        cls.mezzo("train", "--steps", "24", "--precision", "amp-fp16", "--out", cls.folder / "run", "--sample-tokens", "0")
        cls.mezzo("train", "--steps", "2", "--precision", "amp-fp16", "--loss-scale", "1e12", "--out", cls.folder / "failed",
                  "--sample-tokens", "0")
        cls.failed = (cls.folder / "failed" / "failures" / "step-1" / "diagnosis.html").read_text()
        cls.compared = (cls.folder / "compared" / "report.html").read_text()

    @classmethod
    def mezzo(cls, command, *arguments):
        environment = {**os.environ, "MEZZO_CACHE": str(cls.folder / "cache"), "NO_COLOR": "1"}
        done = subprocess.run([MEZZO, command, "--data", cls.folder / "text.txt", *TINY, *map(str, arguments)],
                              env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(done.stdout + done.stderr)

    def shown(self, page, *options):
        """The page's elements after its script has run; what the console said is an error."""
        path = self.folder / "page.html"
        path.write_text(page)
        done = subprocess.run([CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000",
                               f"--user-data-dir={self.folder / 'profile'}", "--enable-logging=stderr", "--dump-dom",
                               *options, path.as_uri()], capture_output=True, text=True, timeout=120)
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        self.assertEqual(said, [], "the console must be silent")
        self.assertIn("<h1", done.stdout, done.stderr[-2000:])
        return done.stdout

    def with_script(self, script, page=None):
        """The page, and a script that runs after its own."""
        before, after = (page or self.compared).rsplit("</body>", 1)
        return f"{before}<script>{script}</script></body>{after}"

    def text_of(self, dom):
        dom = re.sub(r"<(script|style)\b.*?</\1>", "", dom, flags=re.DOTALL)
        return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", dom)))

    def with_data(self, change, page=None):
        before, rest = (page or self.compared).split('id="data">', 1)
        data, after = rest.split("</script>", 1)
        data = json.loads(data)
        change(data)
        return before + 'id="data">' + json.dumps(data).replace("<", "\\u003c") + "</script>" + after

    def test_a_comparison_shows_its_table_its_charts_and_its_verdict(self):
        dom = self.shown(self.compared)
        text = self.text_of(dom)
        self.assertIn("3 precisions compared", text)
        self.assertRegex(text, r"pure-fp16 diverged at step [0-9]+")
        self.assertRegex(text, r"amp-fp16 (diverged at step [0-9]+ )?[0-9.]+× [0-9.]+ to [0-9.]+ [0-9.]+ ms")
        for chart in ["Training and held-out loss", "Speed of each mode", "Peak tensor memory", "Loss scale over",
                      "Magnitudes of the gradients"]:
            self.assertRegex(dom, f'<canvas[^>]*aria-label="{chart}')
        self.assertIn("weight-decay", text)

    def test_a_single_run_has_no_comparison_on_its_page(self):
        text = self.text_of(self.shown((self.folder / "run" / "report.html").read_text()))
        self.assertIn("nano in amp-fp16", text)
        self.assertIn("done · 24 steps", text)
        self.assertNotIn("Recommended", text)
        self.assertNotIn("speed", text)

    def test_a_single_run_says_how_far_it_came(self):
        page = (self.folder / "run" / "report.html").read_text()

        def stop(data):
            data.update(status="interrupted", steps=1000)
            data["runs"][0]["steps"]["scale"] = [1.0000000150474662e+30] * 24
            data["table"][0]["stability"].update(final_scale=1.0000000150474662e+30, smallest_scale=1.0000000150474662e+30)
        dom = self.shown(self.with_data(stop, page))
        self.assertIn("interrupted · 24 of 1000 steps", self.text_of(dom))
        self.assertIn("1e+30 lowest 1e+30", self.text_of(dom))
        self.assertNotIn("It halves", self.text_of(dom))

    def test_it_needs_no_network_and_nothing_beside_it(self):
        for page in [self.compared, self.failed, (self.folder / "run" / "report.html").read_text()]:
            self.assertNotRegex(page, r"<(link|img|iframe)\b|\bsrc=|@import|fetch\(|XMLHttpRequest")

    def test_a_diagnosis_shows_what_failed_its_way_its_magnitudes_and_what_cures_it(self):
        dom = self.shown(self.failed)
        text = self.text_of(dom)
        report = json.loads((self.folder / "failed" / "failures" / "step-1" / "diagnosis.json").read_text())
        first = report["findings"][0]
        self.assertIn("nano in amp-fp16: step 1", text)
        self.assertIn(f"{first['direction']} of {first['module']}: {first['cause']}", text)
        self.assertIn(f"Proved on this step: {report['remedies'][0]['change']}", text)
        self.assertRegex(text, rf"{first['op']} born here")
        self.assertIn("It ended in: ", text)
        self.assertRegex(dom, '<canvas[^>]*aria-label="Magnitudes of each part')
        self.assertNotRegex(text, r"NaN\b|undefined|null")

    def test_the_histograms_of_the_op_that_overflowed_are_drawn(self):
        self.assertNotRegex(self.shown(self.failed), 'aria-label="Magnitudes of what', "code that is no op has none")
        counts = {"values": 100, "zeros": 2, "nonfinite": 3, "first_exponent": 12, "counts": [60, 30, 5]}

        def overflow(data):
            data["diagnosis"]["findings"][0].update(
                op="aten::mul", inner=["aten::exp"], dtype="Half", magnitudes=counts, exact_magnitudes={**counts, "nonfinite": 0},
                operands=[{"name": "self", "dtype": "Half", "sizes": [100], "largest": 12.0, "magnitudes": counts}])
        dom = self.shown(self.with_data(overflow, self.failed))
        self.assertRegex(dom, '<canvas[^>]*aria-label="Magnitudes of what aten::exp read and made')
        self.assertIn("result (fp16): 2.00 % zero, 3 of 100 not finite", self.text_of(dom))

    def test_a_replay_that_was_not_tried_is_not_called_one(self):
        self.assertIn("replayed bit for bit", self.text_of(self.shown(self.failed)))
        page = self.with_data(lambda data: data["diagnosis"].update(reproduced=None), self.failed)
        self.assertNotIn("replayed", self.text_of(self.shown(page)))

    def test_what_was_bad_before_the_step_is_not_born_in_it(self):
        page = self.with_data(lambda data: data["diagnosis"]["findings"][0].update(external="wte.weight"), self.failed)
        text = self.text_of(self.shown(page))
        self.assertIn("first read here", text)
        self.assertNotRegex(text, "born here|birth")

    def test_a_healthy_step_has_a_page_too(self):
        page = self.folder / "healthy.html"
        self.mezzo("doctor", "--steps", "1", "--html", page)
        dom = self.shown(page.read_text())
        self.assertIn("Nothing found", self.text_of(dom))
        self.assertRegex(dom, '<canvas[^>]*aria-label="Magnitudes of each part')
        self.assertNotIn("born here", self.text_of(dom))

    def test_what_is_not_measured_yet_is_left_out(self):
        def forget(data):
            data.update(status="running", verdict="", recommended=None, noise=None)
            for run in data["runs"]:
                run.update(steps={key: [] for key in run["steps"]}, gradients=None, summary=None, status="waiting",
                           evals={key: [] for key in run["evals"]})
            for row in data["table"]:
                row.update(step_ms=None, speedup=None, diverged=[], accuracy=dict.fromkeys(row["accuracy"]),
                           memory=dict.fromkeys(row["memory"]))
        text = self.text_of(self.shown(self.with_data(forget)))
        self.assertIn("still running", text)
        self.assertNotRegex(text, r"NaN|undefined|null")

    def test_text_is_shown_and_never_run(self):
        evil = "</script><script>document.title='run'</script><img src=x onerror=document.title='run'>"
        dom = self.shown(self.with_data(lambda data: data.update(verdict=evil)))
        self.assertIn(html.unescape(evil), self.text_of(dom.replace("&lt;", "&amp;lt;").replace("&gt;", "&amp;gt;"))
                      .replace("&lt;", "<").replace("&gt;", ">"))
        self.assertNotIn("<title>run", dom)

    def test_it_is_dark_where_the_reader_prefers_it(self):
        self.assertIn('<html lang="en" class="dark">', self.shown(self.compared, "--blink-settings=preferredColorScheme=0"))

    def test_curves_are_named_by_their_seed_where_there_are_several(self):
        script = "document.body.dataset.names = [...new Set(charts.flatMap((it) => it.data.datasets.map((set) => set.label)))]"
        self.assertIn("fp32, seed 1338, held out", self.shown(self.with_script(script)))
        single = (self.folder / "run" / "report.html").read_text()
        self.assertRegex(self.shown(self.with_script(script, single)), 'data-names="amp-fp16,amp-fp16, held out,')

    def test_gradients_are_drawn_where_their_bins_are(self):
        def measure(data):
            for run in data["runs"]:
                run["gradients"] = {"values": 8, "zeros": 0, "nonfinite": 4, "first_exponent": -10, "counts": [1, 3]}
        script = """
            const { datasets: [dataset] } = charts.at(-1).data;
            document.body.dataset.bins = dataset.data.map((parsed) => binTooltip.tooltip.callbacks.label({ dataset, parsed }));"""
        dom = self.shown(self.with_script(script, self.with_data(measure)))
        self.assertRegex(dom, r'data-bins="[^"]*12\.5 % from 2\^-10 to 2\^-9,[^"]*37\.5 % from 2\^-9 to 2\^-8"')
        self.assertIn("Not finite: fp32 50.0 %", self.text_of(dom))

    def test_a_mode_stays_hidden_when_its_curves_are_drawn_anew(self):
        script = """
            const press = (name) => [...document.querySelectorAll("section button")].find((it) => it.textContent === name).click();
            ["amp-fp16", "by time", "every batch"].forEach(press);
            const shown = charts[0].data.datasets.filter((_, i) => charts[0].isDatasetVisible(i)).map((set) => set.group);
            press("amp-fp16");
            const all = charts[0].data.datasets.filter((_, i) => charts[0].isDatasetVisible(i)).map((set) => set.group);
            document.body.dataset.shown = [...new Set(shown)] + " then " + [...new Set(all)];"""
        self.assertIn('data-shown="fp32,pure-fp16 then fp32,amp-fp16,pure-fp16"', self.shown(self.with_script(script)))

    def test_what_was_pressed_opened_and_focused_stays_so_when_the_page_loads_anew(self):
        script = """
            const loads = 1 + Number(sessionStorage.getItem("loads"));
            sessionStorage.setItem("loads", loads);
            if (loads === 1) {
              const buttons = [...document.querySelectorAll("section button")];
              for (const name of ["amp-fp16", "by time"]) buttons.find((it) => it.textContent === name).click();
              document.querySelector("summary").click();
              document.querySelector("summary").focus();
              location.reload();
            }
            const focused = document.activeElement.textContent;
            document.body.dataset.after = [loads, charts[0].isDatasetVisible(2), charts[0].options.scales.x.title.text, focused];"""
        dom = self.shown(self.with_script(script))
        self.assertIn('data-after="2,false,seconds of training,All settings"', dom)
        self.assertRegex(dom, r"<details open")
        self.assertEqual(len(re.findall('<button[^>]* aria-pressed="false"', dom)), 2)  # amp-fp16, and "every batch" as at first

    def test_everything_that_can_be_pressed_is_a_button_with_a_state(self):
        dom = self.shown(self.compared)
        legend = re.findall(r'<button type="button"[^>]*aria-pressed="(true|false)"', dom)
        self.assertGreaterEqual(len(legend), 10)
        self.assertNotRegex(dom, r"<(div|span|canvas)[^>]*onclick")


if __name__ == "__main__":
    if not CHROMIUM:
        print("no chromium: apt-get install chromium")
        sys.exit(SKIPPED)
    unittest.main()
