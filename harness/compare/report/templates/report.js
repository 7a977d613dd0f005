"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// The table: sort by a heading, filter by text, hide what only some want.
const board = byId("board"), body = board.tBodies[0], headings = [...board.tHead.rows[0].cells];
function value(cell) {
  const text = cell.textContent.trim();
  const number = parseFloat(text.replace(/,/g, "").replace("−", "-").replace("<", ""));
  return text === "" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
}
function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
}
headings.forEach((heading, place) => heading.querySelector("button").addEventListener("click", () => {
  const down = heading.getAttribute("aria-sort") === "ascending";
  headings.forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].map((row) => [value(row.cells[place]), row]);
  rows.sort(([a], [b]) => (a === null || b === null ? compare(a, b) : down ? compare(b, a) : compare(a, b)));
  body.append(...rows.map(([, row]) => row));
}));
byId("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
});
function showColumns() {
  const all = byId("all").checked;
  for (const row of [board.tHead.rows[0], ...body.rows])
    [...row.cells].forEach((cell, place) => { cell.hidden = !all && !data.short[place]; });
}
byId("all").addEventListener("change", showColumns);
showColumns();

// Error against cost.
const svgNames = "http://www.w3.org/2000/svg";
function shape(name, attributes, text) {
  const made = document.createElementNS(svgNames, name);
  for (const [key, given] of Object.entries(attributes)) made.setAttribute(key, given);
  if (text !== undefined) made.textContent = text;
  return made;
}
function ticks(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(at);
  return found;
}
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
function drawPareto() {
  const svg = byId("pareto").querySelector("svg"), field = byId("cost").value, tip = byId("tip");
  svg.replaceChildren();
  tip.hidden = true;
  const points = data.points.filter((point) => point[field] !== null);
  const label = byId("cost").selectedOptions[0].textContent;
  const left = 60, right = 700, top = 15, bottom = 350;
  const xs = points.map((p) => p[field]), ys = points.map((p) => p.rate);
  const spread = (values) => [Math.min(...values), Math.max(...values)];
  let [x0, x1] = spread(xs), [y0, y1] = spread(ys);
  const padX = (x1 - x0 || Math.abs(x1) || 1) * 0.06, padY = (y1 - y0 || y1 || 1) * 0.08;
  [x0, x1, y0, y1] = [Math.max(x0 - padX, x0 < 0 ? -Infinity : 0), x1 + padX, Math.max(0, y0 - padY), y1 + padY];
  const atX = (x) => left + (x - x0) / (x1 - x0) * (right - left);
  const atY = (y) => bottom - (y - y0) / (y1 - y0) * (bottom - top);
  for (const x of ticks(x0, x1, 6)) {
    svg.append(shape("line", { x1: atX(x), x2: atX(x), y1: top, y2: bottom, stroke: "#eaeef2" }));
    svg.append(shape("text", { x: atX(x), y: bottom + 18, "text-anchor": "middle", "font-size": 13, fill: "#59636e" }, short.format(x)));
  }
  for (const y of ticks(y0, y1, 5)) {
    svg.append(shape("line", { x1: left, x2: right, y1: atY(y), y2: atY(y), stroke: "#eaeef2" }));
    svg.append(shape("text", { x: left - 8, y: atY(y) + 4, "text-anchor": "end", "font-size": 13, fill: "#59636e" }, (100 * y).toFixed(y1 - y0 < 0.03 ? 1 : 0)));
  }
  svg.append(shape("text", { x: (left + right) / 2, y: 390, "text-anchor": "middle", "font-size": 14 }, label));
  svg.append(shape("text", { x: 16, y: (top + bottom) / 2, "text-anchor": "middle", "font-size": 14, transform: `rotate(-90 16 ${(top + bottom) / 2})` }, data.metric + " %"));
  byId("cost_missing").textContent = data.points.filter((p) => p[field] === null).map((p) => p.system).join(", ");
  byId("cost_missing").parentElement.hidden = points.length === data.points.length;
  for (const point of points) {
    const dot = shape("circle", { cx: atX(point[field]), cy: atY(point.rate), r: 7, class: "point", tabindex: 0,
      fill: point.front[field] ? "#0072b2" : "#ffffff", stroke: "#0072b2", "stroke-width": 2 });
    dot.setAttribute("aria-label", point.system);
    if (point.low !== null) svg.append(shape("line", { x1: atX(point[field]), x2: atX(point[field]), y1: Math.max(top, atY(point.high)), y2: Math.min(bottom, atY(point.low)), stroke: "#0072b2", "stroke-opacity": .4, "stroke-width": 2 }));
    const show = () => {
      tip.replaceChildren(element("b", point.system), element("div", `${data.metric} ${(100 * point.rate).toFixed(1)} %`), element("div", `${label}: ${new Intl.NumberFormat("en", { maximumFractionDigits: 1 }).format(point[field])}`));
      tip.hidden = false;
      const scale = svg.clientWidth / 720, x = atX(point[field]) * scale, wide = byId("pareto").clientWidth;
      tip.style.left = `${Math.max(0, Math.min(x + 12, wide - tip.offsetWidth))}px`;
      tip.style.top = `${Math.max(0, atY(point.rate) * scale - tip.offsetHeight - 12)}px`;
    };
    const hide = () => { tip.hidden = true; };
    dot.addEventListener("mouseenter", show); dot.addEventListener("focus", show);
    dot.addEventListener("mouseleave", hide); dot.addEventListener("blur", hide);
    svg.append(dot);
  }
}
if (byId("cost")) { byId("cost").addEventListener("change", drawPareto); drawPareto(); }

// Transcripts: each system's words aligned with the reference.
const LONGEST = 250, PAGE = 25;
const plain = (word) => word.toLowerCase().replace(/[^\p{L}\p{N}\p{M}]/gu, "") || word;
function aligned(reference, hypothesis) {
  const r = reference.map(plain), h = hypothesis.map(plain), n = r.length, m = h.length;
  const cost = Array.from({ length: n + 1 }, (_, i) => new Int32Array(m + 1).fill(0).map((_, j) => (i === 0 ? 3 * j : j === 0 ? 3 * i : 0)));
  for (let i = 1; i <= n; i++) for (let j = 1; j <= m; j++)
    cost[i][j] = Math.min(cost[i - 1][j - 1] + (r[i - 1] === h[j - 1] ? 0 : 4), cost[i - 1][j] + 3, cost[i][j - 1] + 3);
  const found = [];
  for (let i = n, j = m; i > 0 || j > 0;) {
    const same = i > 0 && j > 0 && r[i - 1] === h[j - 1];
    if (i > 0 && j > 0 && cost[i][j] === cost[i - 1][j - 1] + (same ? 0 : 4)) { i--; j--; found.unshift([same ? "" : "sub", hypothesis[j]]); }
    else if (i > 0 && cost[i][j] === cost[i - 1][j] + 3) { i--; found.unshift(["del", reference[i]]); }
    else { j--; found.unshift(["ins", hypothesis[j]]); }
  }
  return found;
}
const words = (text) => text.split(/\s+/).filter(Boolean);
function line(label, parts) {
  const made = element("div", undefined, "line"), text = element("bdi");
  text.dir = "auto";
  for (const [kind, word] of parts) text.append(element("span", word, kind), " ");
  if (!parts.length) text.append(element("i", "(nothing)"));
  made.append(element("span", label), text);
  return made;
}
function cut(list) { return list.length > LONGEST ? [...list.slice(0, LONGEST), `… and ${list.length - LONGEST} words more`] : list; }
let shown = 0, matching = [];
function showMore() {
  for (const row of matching.slice(shown, shown + PAGE)) {
    const utterance = data.utterances[row], box = element("div", undefined, "utterance");
    box.append(element("h3", [utterance.id, utterance.about].filter(Boolean).join(" · ")));
    if (utterance.audio) { const audio = element("audio"); audio.controls = true; audio.preload = "none"; audio.src = utterance.audio; box.append(audio); }
    const reference = cut(words(utterance.reference));
    box.append(line("reference", reference.map((word) => ["", word])));
    for (const id of ["first", "second"]) {
      const system = Number(byId(id).value);
      box.append(line(data.systems[system], aligned(reference, cut(words(utterance.hypotheses[system])))));
    }
    byId("utterances").append(box);
  }
  shown = Math.min(shown + PAGE, matching.length);
  byId("more").hidden = shown >= matching.length;
  byId("count").textContent = `${matching.length} of ${data.utterances.length} utterances`;
}
function search() {
  const first = Number(byId("first").value), second = Number(byId("second").value);
  const which = byId("which").value, wanted = byId("find").value.toLowerCase();
  matching = data.utterances.map((_, row) => row).filter((row) => {
    const u = data.utterances[row], a = u.hypotheses[first], b = u.hypotheses[second];
    if (which === "differ" && a === b) return false;
    if (which === "wrong" && !u.errors[first] && !u.errors[second]) return false;
    return !wanted || [u.id, u.reference, a, b].some((text) => text.toLowerCase().includes(wanted));
  });
  byId("utterances").replaceChildren();
  shown = 0;
  showMore();
}
for (const id of ["first", "second"]) {
  data.systems.forEach((name, place) => { const option = element("option", name); option.value = place; byId(id).append(option); });
}
byId("second").value = Math.min(1, data.systems.length - 1);
for (const id of ["first", "second", "which"]) byId(id).addEventListener("change", search);
byId("find").addEventListener("input", search);
byId("more").addEventListener("click", showMore);
search();
