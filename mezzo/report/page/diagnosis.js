"use strict";

// The page of a step that was looked into.

// Largest, smallest normal and smallest subnormal number, as powers of two.
const FORMATS = [
  { name: "fp16", colour: "#d55e00", top: Math.log2(65504), normal: -14, subnormal: -24, largest: "65504" },
  { name: "bf16", colour: "#009e73", top: 128, normal: -126, subnormal: -133, largest: "2^128" },
  { name: "e5m2", colour: "#cc79a7", top: Math.log2(57344), normal: -14, subnormal: -16, largest: "57344" },
  { name: "e4m3", colour: "#8c6d31", top: Math.log2(448), normal: -6, subnormal: -9, largest: "448" },
];
const DTYPES = { Half: "fp16", BFloat16: "bf16", Float: "fp32", Double: "fp64" };
const DTYPE_COLOURS = { fp16: "#d55e00", bf16: "#009e73", fp32: "#0072b2", fp64: "#7f7f7f" };

const dtypeOf = (name) => DTYPES[name] || name;
const placeOf = (part) => part.module || (part.parameter ? "near " + part.parameter : "–");
const size = (value) => (isNumber(value) ? Number(value.toPrecision(4)).toString() : String(value));
const count = (value) => value.toLocaleString("en");
const shape = (sizes) => `[${sizes.join(", ")}]`;
const passOf = (part) => (part.recomputed ? "recomputed" : part.direction);
const result = () => data.diagnosis.findings[0];
// Of what was not finite before the step, no op is the birth.
const birth = () => (result().external ? "first read here" : "born here");

function factsOf(finding) {
  const facts = [];
  if (finding.element.length || finding.exact !== null) {
    const exact = finding.exact === null ? "" : `, exactly ${size(finding.exact)}`;
    facts.push(`${finding.external || "result"}${shape(finding.element)} = ${size(finding.value)}${exact}`);
  }
  const values = finding.sizes.reduce((all, one) => all * one, 1);
  if (finding.bad_elements) facts.push(`${count(finding.bad_elements)} of ${count(values)} are not finite`);
  if (finding.sample !== null) facts.push(`sample ${finding.sample} of the batch`);
  if (finding.note) facts.push(finding.note);
  return facts;
}

function showDiagnosisHead() {
  const { diagnosis } = data, page = document.getElementById("page");
  const title = `${data.model} in ${data.precision}: step ${count(data.step)}`;
  document.getElementById("title").textContent = title;
  document.title = title + " – Mezzo";
  const facts = [`${count(diagnosis.ops)} ops`, `loss ${size(diagnosis.loss)}`,
                 ...(diagnosis.fp32_loss === null ? [] : [`in fp32 ${size(diagnosis.fp32_loss)}`]),
                 ...(diagnosis.reproduced === null ? [] : [diagnosis.reproduced ? "replayed bit for bit" : `not reproduced: ${diagnosis.not_reproduced}`])];
  page.append(element("p", facts.join(" · "), { class: "quiet" }));
  page.append(element("p", data.headlines[0] || "Nothing found: loss and gradients are finite.", { class: "verdict" }));
  if (!result()) return;
  page.append(element("p", factsOf(result()).join(" · ")));
  const proved = diagnosis.remedies.find((remedy) => remedy.proved);
  if (!proved) return;
  const box = element("p", null, { class: "recommended" });
  box.append("Proved on this step: ", element("strong", proved.change), ` – ${proved.outcome}.`);
  page.append(box);
}

function showWay() {
  if (!result() || !result().way.length) return;
  const { way, sinks, external } = result();
  const part = section(external ? "From its first reader to the loss" : "From its birth to the loss",
                       `The op ${external ? "that read it first" : "whose result was bad first"}, those that passed it on, and where it ended.`);
  const body = tableIn(part, "ops that it came through", ["op", "part", "pass", "result", "largest finite", "not finite"]);
  way.forEach((link, i) => {
    const row = element("tr", null, { class: i === 0 ? "way bad" : "way" });
    cell(row, link.op, i === 0 ? birth() : "");
    const known = link.sizes.length || link.values;
    for (const text of [link.module || "–", link.direction, known ? `${dtypeOf(link.dtype)} ${shape(link.sizes)}` : "–",
                        known ? size(link.largest) : "–", known ? `${count(link.nonfinite)} of ${count(link.values)}` : "–"]) cell(row, text);
    body.append(row);
  });
  if (sinks.length) part.append(element("p", "It ended in: " + sinks.join(", ") + "."));
}

// ---- The ranges of the formats, beside a chart whose axis is in powers of two

function text(ctx, words, x, y, colour, align = "left") {
  ctx.fillStyle = colour;
  ctx.textAlign = align;
  ctx.textBaseline = "middle";
  ctx.fillText(words, x, y);
}

const COLUMN = 58, FONT = "11px system-ui, sans-serif";

// A line at each format's limits across the chart, and its numbers in a column of its own at the right.
const rangesAtTheSide = {
  id: "rangesAtTheSide",
  afterDatasetsDraw(made) {
    const { ctx, chartArea: area, scales: { y } } = made;
    ctx.save();
    ctx.font = FONT;
    FORMATS.forEach((format, i) => {
      const left = area.right + 8 + i * COLUMN;
      text(ctx, format.name, left, area.top - 10, format.colour);
      let last = -Infinity;
      for (const [power, words, dash] of [[format.top, format.largest, []], [format.normal, "2^" + format.normal, [6, 3]],
                                          [format.subnormal, "2^" + format.subnormal, [2, 3]]]) {
        const at = Math.min(area.bottom - (power === format.normal ? 16 : 4), Math.max(area.top + 4, y.getPixelForValue(power)));
        const isInside = power <= y.max && power >= y.min;
        if (at - last < 11) continue;
        last = at;
        text(ctx, (isInside ? "" : power > 0 ? "↑ " : "↓ ") + words, left, at, format.colour);
        if (!isInside) continue;
        ctx.strokeStyle = format.colour;
        ctx.globalAlpha = .55;
        ctx.setLineDash(dash);
        ctx.beginPath();
        ctx.moveTo(area.left, y.getPixelForValue(power));
        ctx.lineTo(area.right + 5, y.getPixelForValue(power));
        ctx.stroke();
        ctx.globalAlpha = 1;
      }
    });
    ctx.restore();
  },
};

const ROW = 16, GAP = 8;

// Above the chart a bar for each format, from its smallest number to its largest; pale where it is subnormal.
const rangesAbove = {
  id: "rangesAbove",
  beforeDatasetsDraw(made) {
    const { ctx, chartArea: area, scales: { x } } = made;
    const inside = (power) => Math.min(area.right, Math.max(area.left, x.getPixelForValue(power)));
    ctx.save();
    ctx.font = FONT;
    FORMATS.forEach((format, i) => {
      const top = area.top - GAP - (FORMATS.length - i) * ROW;
      const [low, normal, high] = [format.subnormal, format.normal, format.top].map(inside);
      ctx.fillStyle = format.colour;
      ctx.globalAlpha = .3;
      ctx.fillRect(low, top, normal - low, ROW - 4);
      ctx.globalAlpha = 1;
      ctx.fillRect(normal, top, high - normal, ROW - 4);
      text(ctx, format.name, area.left - 6, top + ROW / 2 - 2, format.colour, "right");
      if (format.top <= x.max) text(ctx, format.largest, high + 5, top + ROW / 2 - 2, format.colour);
      else text(ctx, `from 2^${format.subnormal} to ${format.largest}`, (low + high) / 2, top + ROW / 2 - 2, "#ffffff", "center");
      ctx.globalAlpha = .45;
      ctx.strokeStyle = format.colour;
      if (format.name !== dtypeOf(result().dtype)) return;
      for (const power of [format.subnormal, format.normal, format.top]) {
        if (power < x.min || power > x.max) continue;
        ctx.setLineDash(power === format.top ? [] : [4, 3]);
        ctx.beginPath();
        ctx.moveTo(inside(power), top);
        ctx.lineTo(inside(power), area.bottom);
        ctx.stroke();
      }
    });
    ctx.restore();
  },
};

// ---- Magnitudes over the step

// One entry a stretch: where it is, and what it holds of each dtype.
function stretches() {
  const all = new Map();
  for (const part of data.diagnosis.parts) {
    if (!(number(part.largest) > 0) && !part.nonfinite) continue;
    if (!all.has(part.stretch)) all.set(part.stretch, { place: placeOf(part), pass: passOf(part), of: {} });
    all.get(part.stretch).of[dtypeOf(part.dtype)] = part;
  }
  return [...all.values()];
}

const isGuilty = (stretch) => result() && stretch.pass === passOf(result()) && stretch.place === placeOf(result());

const median = {
  id: "median",
  afterDatasetsDraw(made) {
    const { ctx, scales: { y }, chartArea: area } = made;
    ctx.save();
    made.data.datasets.forEach((set, i) => {
      if (!made.isDatasetVisible(i)) return;
      made.getDatasetMeta(i).data.forEach((bar, at) => {
        const part = set.parts[at];
        if (!part) return;
        const width = Math.max(4, bar.width);
        ctx.fillStyle = variable("--text");
        if (number(part.median) > 0) ctx.fillRect(bar.x - width / 2 - 1, y.getPixelForValue(Math.log2(part.median)) - 1, width + 2, 2);
        if (!part.nonfinite) return;
        ctx.strokeStyle = variable("--bad");
        ctx.lineWidth = 2;
        ctx.beginPath();
        for (const side of [-3, 3]) {
          ctx.moveTo(bar.x - side, area.top - 12);
          ctx.lineTo(bar.x + side, area.top - 6);
        }
        ctx.stroke();
      });
    });
    ctx.restore();
  },
};

// Where the passes begin, and the place of the finding.
const passes = (all) => ({
  id: "passes",
  beforeDatasetsDraw(made) {
    const { ctx, scales: { x }, chartArea: area } = made;
    const half = all.length > 1 ? (x.getPixelForValue(1) - x.getPixelForValue(0)) / 2 : area.width / 2;
    ctx.save();
    ctx.font = "12px system-ui, sans-serif";
    const born = all.findIndex(isGuilty);
    if (born >= 0) {
      ctx.fillStyle = "rgba(192, 16, 32, .13)";
      ctx.fillRect(x.getPixelForValue(born) - half, area.top, 2 * half, area.height);
      const at = x.getPixelForValue(born), isLate = at > (area.left + area.right) / 2;
      text(ctx, birth(), at + (isLate ? -half - 4 : half + 4), area.bottom - 10, variable("--bad"), isLate ? "right" : "left");
    }
    all.forEach((stretch, i) => {
      if (i > 0 && all[i - 1].pass === stretch.pass) return;
      const left = x.getPixelForValue(i) - half;
      ctx.fillStyle = variable("--quiet");
      if (i > 0) ctx.fillRect(left, area.top, 1, area.height);
      const next = all.findIndex((other, at) => at > i && other.pass !== stretch.pass);
      const right = next < 0 ? area.right : x.getPixelForValue(next) - half;
      if (right - left > ctx.measureText(stretch.pass).width + 10)
        text(ctx, stretch.pass, left + 5, area.top + 10, variable("--quiet"));
    });
    ctx.restore();
  },
});

function noteOf(part) {
  if (!part) return "";
  const share = (some) => percent(some / part.values, 2);
  return [`largest ${size(part.largest)} by ${part.largest_op}`, `half below ${size(part.median)}, 1 % below ${size(part.low)}`,
          `zero ${share(part.zeros)}, subnormal ${share(part.subnormals)}`,
          ...(part.nonfinite ? [`not finite ${count(part.nonfinite)} of ${count(part.values)}`] : [])];
}

function showParts() {
  const all = stretches();
  if (!all.length) return;
  const part = section("Magnitudes over the step",
    "What each part of the model made, in the order of the step. A bar reaches from the magnitude that 1 % of the numbers are below to the largest finite one; " +
    "the mark is the median, and a red cross above says that some were not finite. Lines: the largest number of a format, its smallest normal (dashed) and subnormal one (dotted).");
  const dtypes = Object.values(DTYPES).filter((dtype) => all.some((stretch) => stretch.of[dtype]));
  const bar = (some) => some && number(some.largest) > 0 ? [Math.log2(some.low || some.largest), Math.log2(some.largest)] : null;
  const datasets = dtypes.map((dtype) => {
    const parts = all.map((stretch) => stretch.of[dtype]);
    return { group: dtype, label: dtype, parts, data: parts.map(bar), backgroundColor: DTYPE_COLOURS[dtype] + "b0", maxBarThickness: 12, minBarLength: 3,
             barPercentage: .9, categoryPercentage: .8, grouped: true, skipNull: true };
  });
  const ends = datasets.flatMap((set) => set.data.filter(Boolean).flat());
  const ticks = { color: variable("--quiet"), callback: (value) => "2^" + value, stepSize: 4 };
  const made = chart(part, "Magnitudes of each part over the step", {
    type: "bar", data: { labels: all.map((stretch) => stretch.place), datasets }, plugins: [passes(all), rangesAtTheSide, median],
    options: {
      layout: { padding: { top: 20, right: FORMATS.length * COLUMN + 8 } },
      plugins: { tooltip: { callbacks: { title: ([item]) => `${all[item.dataIndex].place}, ${all[item.dataIndex].pass}`,
                                         label: (item) => [item.dataset.label, ...noteOf(item.dataset.parts[item.dataIndex])] } } },
      scales: { x: axis("", { ticks: { color: variable("--quiet"), autoSkip: all.length > 60, maxRotation: 90, minRotation: 60, font: { size: 11 } }, grid: { display: false, color: variable("--line") } }),
                y: axis("magnitude", { ticks, min: 4 * Math.floor(Math.min(-25, ...ends) / 4), max: 4 * Math.ceil(Math.max(17, ...ends) / 4) }) } } });
  made.canvas.parentElement.classList.add("tall");
  legend(part, made, dtypes, (dtype) => DTYPE_COLOURS[dtype]);
}

// ---- The op's own numbers

function histograms() {
  const finding = result(), all = [];
  finding.operands.forEach((operand, i) => operand.magnitudes && all.push(
    { name: `${operand.name} (${dtypeOf(operand.dtype)})`, colour: COLOURS[[0, 2, 5, 4][i % 4]], of: operand.magnitudes }));
  if (finding.magnitudes) all.push({ name: `result (${dtypeOf(finding.dtype)})`, colour: COLOURS[1], of: finding.magnitudes });
  if (finding.exact_magnitudes) all.push({ name: "result in fp64", colour: "#7f7f7f", dash: [5, 4], of: finding.exact_magnitudes });
  return all.filter((one) => one.of.values > 0);
}

function showNumbers() {
  if (!result()) return;
  const all = histograms();
  if (!all.length) return;
  const inner = result().inner.length ? result().inner[result().inner.length - 1] : result().op;
  const part = section(`The numbers of ${inner}`, "Share of the values of each magnitude, by power of two, on a logarithmic scale. Bars: what each format can hold, pale where it is subnormal.");
  const exponents = all.flatMap(({ of }) => of.counts.length ? [of.first_exponent, of.first_exponent + of.counts.length] : []);
  const datasets = all.map(({ name, colour, dash, of }) => ({
    group: name, label: name, borderColor: colour, backgroundColor: colour, borderDash: dash || [], borderWidth: 2, pointRadius: 0, showLine: true, stepped: "middle",
    data: of.counts.map((some, i) => ({ x: of.first_exponent + i + .5, y: some > 0 ? (100 * some) / of.values : NaN })) }));
  const y = axis("% of values", { type: "logarithmic", max: 100, ticks: { color: variable("--quiet"), callback: (value) => (Number.isInteger(Math.log10(value)) ? value + " %" : "") } });
  const made = chart(part, `Magnitudes of what ${inner} read and made`, {
    type: "scatter", data: { datasets }, plugins: [rangesAbove],
    options: { plugins: binTooltip, layout: { padding: { top: FORMATS.length * ROW + GAP, right: 12 } },
               scales: { x: axis("magnitude", { min: 4 * Math.floor(Math.min(-25, ...exponents) / 4), max: 4 * Math.ceil(Math.max(20, ...exponents) / 4),
                                                ticks: { color: variable("--quiet"), stepSize: 4, callback: (value) => "2^" + value } }), y } } });
  legend(part, made, all.map((one) => one.name), (name) => all.find((one) => one.name === name).colour);
  const notes = all.map(({ name, of }) => [name, ...(of.zeros ? [`${percent(of.zeros / of.values, 2)} zero`] : []), ...(of.nonfinite ? [`${count(of.nonfinite)} of ${count(of.values)} not finite`] : [])])
    .filter((note) => note.length > 1).map(([name, ...facts]) => `${name}: ${facts.join(", ")}`);
  if (notes.length) part.append(element("p", notes.join(" · ") + ".", { class: "quiet" }));
}

function showRemedies() {
  if (!data.diagnosis.remedies.length) return;
  const part = section("Remedies", "Each was tried on this very step. Proved: loss and gradients are finite, and the loss is that of the step in fp32.");
  const body = tableIn(part, "remedies", ["change", "on this step", "outcome"]);
  for (const remedy of data.diagnosis.remedies) {
    const row = element("tr", null, { class: "wrapped" });
    cell(row, remedy.change, remedy.advice);
    cell(row, remedy.proved ? "proved" : "not proved");
    cell(row, remedy.outcome);
    body.append(row);
  }
}

function showOtherFindings() {
  if (data.headlines.length < 2) return;
  const part = section("Further findings"), list = element("ol");
  for (const headline of data.headlines.slice(1)) list.append(element("li", headline));
  part.append(list);
}

function showDiagnosis() {
  showDiagnosisHead();
  showWay();
  showParts();
  showNumbers();
  showRemedies();
  showOtherFindings();
  showConfiguration();
}
