"use strict";

// The page of a run or a comparison.

const KINDS = { weights: "weights", gradients: "gradients", optimizer_state: "optimizer state", activations: "activations",
                temporaries: "temporaries" };

const colourOf = (mode) => COLOURS[Math.max(0, (data.modes || []).indexOf(mode)) % COLOURS.length];
// Dashes tell pure modes from mixed ones without the colours.
const isPure = (mode) => mode.startsWith("pure");

// A single run's seed is not in the data, where a comparison's are.
const nameOf = (run) => (data.kind === "compare" ? `${run.mode}, seed ${run.seed}` : run.mode);

function line(run, points, options = {}) {
  return { group: run.mode, label: nameOf(run), data: points, borderColor: colourOf(run.mode),
           backgroundColor: colourOf(run.mode), borderDash: isPure(run.mode) ? [6, 4] : [], borderWidth: 1.75, pointRadius: 0,
           showLine: true, ...options };
}

function stepsDone() {
  const done = data.kind === "compare" ? data.steps : data.runs[0].steps.step.at(-1) || 0;
  return done < data.steps ? `${done} of ${data.steps} steps` : `${data.steps} steps`;
}

// ---- The parts of the page

function showHead() {
  const modes = (data.modes || []).length;
  const title = data.kind === "compare" ? `${data.model}: ${modes} precisions compared` : `${data.model} in ${data.modes[0]}`;
  document.getElementById("title").textContent = title;
  document.title = title + " – Mezzo";
  const page = document.getElementById("page");
  const facts = [data.status === "running" ? "still running" : data.status, stepsDone(),
                 `${(data.tokens_per_step || 0).toLocaleString("en")} tokens a step`,
                 `${(data.parameters || 0).toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 })} parameters`,
                 ...(data.kind === "compare" ? [`seed${data.seeds.length > 1 ? "s" : ""} ${data.seeds.join(", ")}`, data.interleaved ? "modes in turn" : "one run after another"] : []),
                 (data.machine || {}).cpu].filter(Boolean);
  page.append(element("p", facts.join(" · "), { class: "quiet" }));
  if (data.verdict) page.append(element("p", data.verdict, { class: "verdict" }));
  if (data.recommended) {
    const box = element("p", null, { class: "recommended" });
    box.append("Recommended on this machine: ", element("strong", data.recommended.mode), ` – ${data.recommended.reason}.`);
    page.append(box);
  }
}

function accuracyDetail(row) {
  if (row.mode === data.baseline || data.kind !== "compare") return "";
  if (row.accuracy.within_noise === true) return "within noise";
  return row.accuracy.within_noise === false ? "beyond noise" : "";
}

function endOf(row) {
  if ((row.failures || []).length) return "failed";
  return row.diverged.length ? `diverged at step ${row.diverged[0].step}` : "";
}

function addRow(body, row) {
  const line = element("tr");
  const { speedup, step_ms: time, memory, accuracy, stability } = row;
  const speed = speedup ? fixed(speedup.median, 2, "×") : "–";
  cell(line, row.mode, endOf(row));
  if (data.kind === "compare") cell(line, speed, speedup && `${fixed(speedup.low, 2)} to ${fixed(speedup.high, 2)}`);
  cell(line, time ? fixed(time.median, 1, " ms") : "–", time && `${fixed(time.low, 1)} to ${fixed(time.high, 1)}`);
  if (data.kind === "compare") cell(line, signedPercent(memory.saved));
  cell(line, mebibytes(memory.peak_tensor_bytes), `process ${mebibytes(memory.peak_rss_bytes)}`);
  if (data.kind === "compare") cell(line, percent(accuracy.relative), accuracyDetail(row));
  cell(line, percent(accuracy.absolute, 2));
  cell(line, fixed(accuracy.val_loss, 4));
  cell(line, String(stability.skipped_steps), stability.nonfinite_steps ? `${stability.nonfinite_steps} not finite` : "");
  cell(line, power(stability.final_scale), `lowest ${power(stability.smallest_scale)}`);
  cell(line, percent(stability.zero_gradients));
  body.append(line);
}

function showTable() {
  const isCompare = data.kind === "compare";
  const noise = data.noise ? ` ${data.baseline} itself varies by ${fixed(100 * data.noise.val_accuracy, 2)} percentage points in accuracy and ${fixed(data.noise.val_loss, 4)} in loss from seed to seed.` : "";
  const part = section("Figures", isCompare ? `Speed and accuracy against ${data.baseline} on the same batches; quartiles below.${noise}` : "");
  const names = ["mode", ...(isCompare ? ["speed"] : []), "step", ...(isCompare ? ["memory"] : []), "peak of tensors",
                 ...(isCompare ? ["accuracy"] : []), "top-1", "held-out loss", "skipped", "scale", "zero gradients"];
  const body = tableIn(part, "table of figures", names);
  for (const row of data.table || []) addRow(body, row);
}

const started = () => (data.runs || []).filter((run) => run.steps.step.length > 0);
const modesOf = (runs) => [...new Set(runs.map((run) => run.mode))];

// By row. A row stands for the steps since the one before: of a long run not all are there.
function wallTimes(run) {
  const { step, step_ms: times } = run.steps;
  let seconds = 0;
  return times.map((ms, i) => (seconds += (isNumber(ms) ? ms : 0) / 1000 * (i > 0 ? step[i] - step[i - 1] : 1)));
}

// An exponential mean over about a fiftieth of the run: the curve under the noise of single batches.
function smoothed(values) {
  const keep = 1 - 1 / Math.max(1, values.length / 50);
  let mean = NaN;
  return values.map((value) => {
    const now = number(value);
    if (!Number.isFinite(now)) return NaN;
    return (mean = Number.isFinite(mean) ? keep * mean + (1 - keep) * now : now);
  });
}

function lossSets(byTime, isSmooth) {
  const sets = [];
  for (const run of started()) {
    const seconds = wallTimes(run);
    const x = (step, row) => (byTime ? seconds[Math.max(0, row)] : step);
    const losses = isSmooth ? smoothed(run.steps.loss) : run.steps.loss.map(number);
    const isFirst = run.seed === data.seeds[0];
    sets.push(line(run, run.steps.step.map((step, i) => ({ x: x(step, i), y: losses[i] })), { borderWidth: isFirst ? 2 : 0.8 }));
    const rowAt = (step) => run.steps.step.findLastIndex((other) => other <= step);
    const points = run.evals.step.map((step, i) => ({ x: x(step, rowAt(step)), y: number(run.evals.val_loss[i]) }));
    sets.push(line(run, points, { label: `${nameOf(run)}, held out`, showLine: false, pointRadius: isFirst ? 4 : 2.5 }));
  }
  return sets;
}

function toggle(parent, made, name, change) {
  const button = element("button", name, { type: "button", class: "plain", "aria-pressed": "false" });
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    change(on);
    made.update("none");
  });
  parent.querySelector(".legend").append(button);
}

// Nothing above the loss of guessing at random tells more than that: a diverged mode must not flatten the others.
function highestLoss() {
  const first = started().map((run) => number(run.steps.loss[0])).filter(Number.isFinite);
  return first.length ? 1.15 * Math.max(...first) : undefined;
}

function showLoss() {
  if (!started().length) return;
  const part = section("Loss", "Lines: training batches. Points: held-out text. Nats per token.");
  let byTime = false, isSmooth = true;
  const made = chart(part, "Training and held-out loss of each mode", {
    type: "scatter", data: { datasets: lossSets(byTime, isSmooth) },
    options: { scales: { x: axis("step"), y: axis("nats per token", { max: highestLoss() }) } } });
  const hidden = legend(part, made, modesOf(started()), colourOf);
  // Chart.js forgets of a dataset that is replaced that it was hidden.
  const redraw = () => { made.data.datasets = lossSets(byTime, isSmooth).map((set) => ({ ...set, hidden: hidden.has(set.group) })); };
  toggle(part, made, "by time", (on) => { byTime = on; made.options.scales.x.title.text = on ? "seconds of training" : "step"; redraw(); });
  toggle(part, made, "every batch", (on) => { isSmooth = !on; redraw(); });
}

function showSpeed() {
  const rows = (data.table || []).filter((row) => row.speedup);
  if (data.kind !== "compare" || !rows.length) return;
  const base = rows.find((row) => row.mode === data.baseline);
  const peers = (data.peers || []).filter((peer) => base && isNumber(peer.step_ms));
  const part = section("Speed", `Steps in the time of one ${data.baseline} step. Longer is faster.`);
  const values = [...rows.map((row) => row.speedup.median), ...peers.map((peer) => base.step_ms.median / peer.step_ms)];
  const notes = [...rows.map((row) => `${fixed(row.step_ms.median, 1)} ms a step, quartiles ${fixed(row.speedup.low, 2)}× to ${fixed(row.speedup.high, 2)}×`),
                 ...peers.map((peer) => `${fixed(peer.step_ms, 1)} ms a step`)];
  const colours = [...rows.map((row) => colourOf(row.mode)), ...peers.map(() => "#7f7f7f")];
  chart(part, "Speed of each mode against " + data.baseline, {
    type: "bar",
    data: { labels: [...rows.map((row) => row.mode), ...peers.map((peer) => peer.name)],
            datasets: [{ data: values, backgroundColor: colours, maxBarThickness: 26 }] },
    options: { indexAxis: "y", plugins: { tooltip: { callbacks: { label: (item) => `${item.parsed.x.toFixed(2)}×, ${notes[item.dataIndex]}` } } },
               scales: { x: axis("× " + data.baseline, { beginAtZero: true }), y: axis("") } } });
}

function showMemory() {
  const rows = (data.table || []).filter((row) => row.memory.kinds);
  if (!rows.length) return;
  const part = section("Memory", "What the peak of tensor storage was made of.");
  const colour = (name) => COLOURS[Object.values(KINDS).indexOf(name)];
  const datasets = Object.entries(KINDS).map(([key, name]) => ({ group: name, label: name, backgroundColor: colour(name), maxBarThickness: 26,
                                                                 data: rows.map((row) => row.memory.kinds[key] / 2 ** 20) }));
  const made = chart(part, "Peak tensor memory of each mode by kind", {
    type: "bar", data: { labels: rows.map((row) => row.mode), datasets },
    options: { indexAxis: "y", scales: { x: axis("MiB", { stacked: true }), y: axis("", { stacked: true }) } } });
  legend(part, made, Object.values(KINDS), colour);
}

function showScale() {
  const runs = started().filter((run) => new Set(run.steps.scale).size > 1);
  if (!runs.length) return;
  const part = section("Loss scale", "It halves where a gradient overflows (crosses: the skipped steps) and doubles after a run of good steps.");
  const datasets = runs.flatMap((run) => {
    const points = run.steps.step.map((step, i) => ({ x: step, y: number(run.steps.scale[i]) }));
    const skipped = points.filter((_, i) => run.steps.skipped[i]);
    return [line(run, points, { stepped: true }), line(run, skipped, { showLine: false, pointStyle: "crossRot", pointRadius: 7, borderWidth: 2 })];
  });
  const ticks = { color: variable("--quiet"), callback: (value) => (Number.isInteger(Math.log2(value)) ? power(value) : "") };
  const made = chart(part, "Loss scale over the steps", {
    type: "scatter", data: { datasets }, options: { scales: { x: axis("step"), y: axis("scale", { type: "logarithmic", ticks }) } } });
  legend(part, made, modesOf(runs), colourOf);
}

// fp16's range behind the lines: what is left of it is lost, what is right of it overflows.
const fp16Range = {
  id: "fp16Range",
  beforeDatasetsDraw(made) {
    const { ctx, chartArea: area, scales: { x } } = made;
    const band = (from, to, colour, name) => {
      const left = Math.max(area.left, x.getPixelForValue(from)), right = Math.min(area.right, x.getPixelForValue(to));
      if (right <= left) return;
      ctx.fillStyle = colour;
      ctx.fillRect(left, area.top, right - left, area.height);
      ctx.fillStyle = variable("--quiet");
      ctx.font = "12px system-ui, sans-serif";
      if (right - left > ctx.measureText(name).width + 8) ctx.fillText(name, left + 4, area.top + 14);
    };
    ctx.save();
    band(-14, 16, "rgba(0, 158, 115, .16)", "fp16 normal");
    band(-25, -14, "rgba(230, 159, 0, .18)", "subnormal");
    band(-1000, -25, "rgba(213, 94, 0, .08)", "0 in fp16");
    ctx.restore();
  },
};

function showGradients() {
  const runs = started().filter((run) => run.gradients && run.gradients.values > 0 && run.seed === data.seeds[0]);
  if (!runs.length) return;
  const part = section("Gradients", "Share of the gradient values of each magnitude at the last measured step, unscaled and before clipping, by power of two.");
  const datasets = runs.map((run) => {
    const { first_exponent: first, counts, values } = run.gradients;
    return line(run, counts.map((count, i) => ({ x: first + i + .5, y: (100 * count) / values })).filter((point) => point.y > 0), { stepped: "middle" });
  });
  const ticks = { color: variable("--quiet"), callback: (value) => "2^" + value };
  const made = chart(part, "Magnitudes of the gradients by power of two", {
    type: "scatter", data: { datasets }, plugins: [fp16Range],
    options: { plugins: binTooltip, scales: { x: axis("magnitude", { ticks, suggestedMin: -40, suggestedMax: 4 }), y: axis("% of values", { beginAtZero: true }) } } });
  legend(part, made, modesOf(runs), colourOf);
  const shares = (which) => runs.map((run) => `${run.mode} ${percent(run.gradients[which] / run.gradients.values)}`).join(", ");
  const notFinite = runs.some((run) => run.gradients.nonfinite) ? ` Not finite: ${shares("nonfinite")}.` : "";
  part.append(element("p", `Exactly zero: ${shares("zeros")}.${notFinite}`, { class: "quiet" }));
}

function showCapacity() {
  if (!data.capacity) return;
  const gibibytes = (bytes) => fixed(bytes / 2 ** 30, 2, " GiB");
  const part = section("What fits", `Measured: the largest batch of ${data.model}, and the largest preset at batch 1, that fit into ${gibibytes(data.capacity.budget_bytes)} of tensors.`);
  const body = tableIn(part, "table of what fits", ["mode", "largest batch", "peak", "largest preset", "peak"]);
  for (const row of data.capacity.rows) {
    const line = element("tr");
    for (const text of [row.mode, row.largest_batch || "none", row.largest_batch ? gibibytes(row.batch_peak_bytes) : "–",
                        row.largest_model || "none", row.largest_model ? gibibytes(row.model_peak_bytes) : "–"]) cell(line, text);
    body.append(line);
  }
}

function showReport() {
  showHead();
  showTable();
  showLoss();
  showSpeed();
  showMemory();
  showScale();
  showGradients();
  showCapacity();
  showConfiguration();
}
