"use strict";

// Okabe and Ito's colours: told apart by nearly everybody.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f"];
const data = JSON.parse(document.getElementById("data").textContent);
const charts = [];

// ---- Numbers. Those that are not finite come as the strings "nan", "inf", "-inf".

const number = (value) => (typeof value === "number" ? value : value === "inf" ? Infinity : value === "-inf" ? -Infinity : NaN);
const isNumber = (value) => Number.isFinite(number(value));
const fixed = (value, digits, unit = "") => (isNumber(value) ? value.toFixed(digits) + unit : "–");
const percent = (value, digits = 1) => (isNumber(value) ? (100 * value).toFixed(digits) + " %" : "–");
const signedPercent = (value) => (isNumber(value) && value !== 0 ? (value > 0 ? "−" : "+") + Math.abs(100 * value).toFixed(0) + " %" : "–");
const mebibytes = (value) => (isNumber(value) ? Math.round(value / 2 ** 20).toLocaleString("en") + " MiB" : "–");
const power = (value) => (isNumber(value) ? (Number.isInteger(Math.log2(value)) && value > 1 ? "2^" + Math.log2(value) : String(Number(value.toPrecision(4)))) : "–");

// ---- Elements. Text goes in as text, never as markup.

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function section(title, explanation) {
  const made = element("section");
  made.append(element("h2", title));
  if (explanation) made.append(element("p", explanation, { class: "quiet" }));
  document.getElementById("page").append(made);
  return made;
}

// An empty table at the end of `parent`; returns its body.
function tableIn(parent, label, names) {
  const box = element("div", null, { class: "box", tabindex: "0", role: "region", "aria-label": label });
  const table = element("table"), head = element("tr"), header = element("thead"), body = element("tbody");
  for (const name of names) head.append(element("th", name, { scope: "col" }));
  header.append(head);
  table.append(header, body);
  box.append(table);
  parent.append(box);
  return body;
}

// The first of a row says what the row is of.
function cell(row, text, detail) {
  const made = row.firstChild ? element("td", text) : element("th", text, { scope: "row" });
  if (detail) made.append(element("small", detail));
  row.append(made);
}

const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// ---- Charts

function chart(parent, label, config) {
  const box = element("div", null, { class: "chart" });
  const canvas = element("canvas", label, { role: "img", "aria-label": label });
  box.append(canvas);
  parent.append(box);
  config.options = { animation: false, maintainAspectRatio: false, ...config.options };
  config.options.plugins = { legend: { display: false }, ...config.options.plugins };
  const made = new Chart(canvas, config);
  charts.push(made);
  return made;
}

function axis(title, options = {}) {
  return { title: { display: true, text: title, color: variable("--quiet") }, grid: { color: variable("--line") },
           ticks: { color: variable("--quiet") }, ...options };
}

// Of a curve over powers of two whose points are in the middle of their bins.
const binTooltip = { tooltip: { callbacks: { label: ({ dataset, parsed: { x, y } }) =>
  `${dataset.label}: ${Number(y.toPrecision(3))} % from 2^${x - .5} to 2^${x + .5}` } } };

function recolour() {
  for (const made of charts) {
    for (const scale of Object.values(made.options.scales)) {
      scale.grid.color = variable("--line");
      scale.ticks.color = scale.title.color = variable("--quiet");
    }
    made.update("none");
  }
}

// A row of buttons that show and hide the datasets of each name. Returns the names that are hidden now.
function legend(parent, made, names, colour) {
  const row = element("div", null, { class: "legend", role: "group", "aria-label": "what is shown" });
  const hidden = new Set();
  for (const name of names) {
    const button = element("button", null, { type: "button", "aria-pressed": "true" });
    const swatch = element("span", null, { class: "swatch" });
    swatch.style.background = colour(name);
    button.append(swatch, document.createTextNode(name));
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      if (shown) hidden.delete(name); else hidden.add(name);
      made.data.datasets.forEach((set, i) => set.group === name && made.setDatasetVisibility(i, shown));
      made.update("none");
    });
    row.append(button);
  }
  parent.insertBefore(row, parent.querySelector(".chart"));
  return hidden;
}

function setUpTheme() {
  const button = document.getElementById("theme"), root = document.documentElement;
  let kept = null;
  try { kept = localStorage.getItem("mezzo-theme"); } catch { /* a file opened from disk may have no storage */ }
  const set = (isDark) => {
    root.classList.toggle("dark", isDark);
    button.textContent = isDark ? "Light" : "Dark";
  };
  set(kept ? kept === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  button.addEventListener("click", () => {
    set(!root.classList.contains("dark"));
    try { localStorage.setItem("mezzo-theme", root.classList.contains("dark") ? "dark" : "light"); } catch { /* as above */ }
    recolour();
  });
}

// A page of a run that is under way loads itself anew: what was pressed, opened and focused stays so.
function keepView() {
  const key = "mezzo-view " + location.pathname;
  const isOn = (control) => (control.matches("summary") ? control.parentElement.open : control.getAttribute("aria-pressed") === "true");
  const controls = [...document.querySelectorAll("button, summary, .box")];
  const titleOf = (control) => control.closest("section, header").querySelector("h1, h2").textContent;
  const keyOf = (control) => `${titleOf(control)}: ${control.getAttribute("aria-label") || control.textContent}`;
  let kept = {};
  try { kept = JSON.parse(sessionStorage.getItem(key)) || {}; } catch { /* as in setUpTheme */ }
  for (const control of controls) {
    const { on, focused } = kept[keyOf(control)] || { on: isOn(control) };
    if (on !== isOn(control)) control.click();
    if (focused) control.focus({ preventScroll: true });
  }
  addEventListener("pagehide", () => {
    const states = controls.map((control) => [keyOf(control), { on: isOn(control), focused: control === document.activeElement }]);
    try { sessionStorage.setItem(key, JSON.stringify(Object.fromEntries(states))); } catch { /* as in setUpTheme */ }
  });
}

function showConfiguration() {
  const part = section(data.machine ? "Machine and configuration" : "Configuration");
  const details = element("details"), list = element("dl");
  details.append(element("summary", "All settings"));
  const entries = [...Object.entries(data.machine || {}), ...Object.entries(data.versions || {}), ...Object.entries(data.config || {})];
  if (data.started) entries.unshift(["started", data.started]);
  for (const [name, value] of entries) list.append(element("dt", name), element("dd", String(value)));
  details.append(list);
  part.append(details);
}
