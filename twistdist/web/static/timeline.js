// Timeline: what each slot ran, and what was fetched from other workers, drawn on a canvas; the last of both as tables too.

import { byName } from "./now.js";
import { rankOf } from "./incidents.js";
import { bytes, clock, count, h, many, seconds, setText, table, taskLink } from "./dom.js";
import { hueOf, lanesOf, startOf } from "./lanes.js";
import { dateOf, model } from "./model.js";

const MIN_S = 0.01, MAX_S = 7200, MAX_WORKERS = 60, MAX_ROWS = 50, MAX_FETCHED = 20;
const LABEL = 84, AXIS = 52, LABELS = [24, 38], MARGIN = 4, SLIM = 7, CRASH = 10, MOST_LABEL = 140; // pixels
const MOST_LABELS = 100;
const KIND_WORDS = { run: "gave a value", again: "run again", failed: "failed", crashed: "its process died", fetched: "fetched from another worker" };
const HINT = "Point at a run, or move between runs with the arrow keys.";

const view = { span: 60, end: 0, paused: false, selected: null, only: "" };
let canvas, status, detail, pauseButton, chooser, rows, fetched, drawn = [], onTop = [], waiting = false;

const isTransfer = (row) => row.length === 7;

export function mount(section) {
  canvas = h("canvas", { tabindex: "0", role: "img", class: "timeline", "aria-label": "Timeline", "aria-describedby": "timeline-keys" });
  detail = h("p", { class: "detail" }, HINT);
  status = h("span", { class: "muted" });
  pauseButton = model.report ? button("Everything", () => pause(false)) : button("Pause", () => pause(!view.paused));
  if (!model.report) pauseButton.setAttribute("aria-pressed", "false");
  chooser = h("select", { id: "only", onchange: () => { view.only = chooser.value; redraw(); } });
  rows = table(`The ${model.report ? "longest" : "last"} ${MAX_ROWS} runs`, [
    { head: "ended", look: () => "fixed", text: (span) => clock(dateOf(span[0]), 3) },
    { head: "function", text: (span) => span[3] },
    { head: "worker", text: (span) => span[2] },
    { head: "took", number: true, text: (span) => seconds(span[1] / 1e6) },
    { head: "runs", number: true, text: (span) => count(span[4]) },
    { head: "outcome", text: (span) => KIND_WORDS[span[5]], look: (span) => (span[5] === "run" ? "" : span[5] === "again" ? "warn" : "bad") },
    { head: "task", make: (span) => taskLink(span[6]) },
  ], "Nothing has run yet.");
  fetched = table(`The last ${MAX_FETCHED} transfers between workers`, [
    { head: "ended", look: () => "fixed", text: (row) => clock(dateOf(row[0]), 3) },
    { head: "to", text: (row) => row[2] },
    { head: "from", text: (row) => row[3] },
    { head: "took", number: true, text: (row) => seconds(row[1] / 1e6) },
    { head: "values", number: true, text: (row) => count(row[4]) },
    { head: "bytes", number: true, text: (row) => bytes(row[5]) },
    { head: "task", make: (row) => taskLink(row[6]) },
  ], "No worker has fetched a value from another host.");
  section.append(
    h("div", { class: "toolbar", role: "group", "aria-label": "Timeline controls" },
      pauseButton, button("Zoom in", () => zoom(0.5)), button("Zoom out", () => zoom(2)),
      button("Earlier", () => pan(-0.5)), button("Later", () => pan(0.5)),
      h("label", { for: "only" }, "Worker"), chooser, status),
    h("p", { class: "legend", "aria-hidden": "true" }, ...["run", "again", "failed", "crashed", "fetched", "incident"].map((kind) =>
      h("span", {}, h("i", { class: `swatch ${kind}` }), KIND_WORDS[kind] || kind))),
    canvas, detail,
    h("p", { id: "timeline-keys", class: "muted" }, "Keys: + and − zoom, ← and → go from run to run, ↑ and ↓ from transfer to transfer, " +
      `Shift with ← and → moves in time, ${model.report ? "End shows everything" : "the space bar pauses, End returns to the present"}. ` +
      "The tables below say it in words."),
    rows.element, fetched.element);
  listen();
  if (model.report) whole();
}

function button(text, act) {
  return h("button", { type: "button", onclick: act }, text);
}

// ---- what the user does --------------------------------------------------------------------------

function listen() {
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.shiftKey && document.activeElement !== canvas) return; // the page scrolls
    event.preventDefault();
    if (event.shiftKey) pan(Math.sign(event.deltaY || event.deltaX) * 0.1);
    else zoom(event.deltaY > 0 ? 1.25 : 0.8, timeAt(event.offsetX));
  }, { passive: false });
  let from = null;
  canvas.addEventListener("pointerdown", (event) => { from = { x: event.offsetX, end: view.end, moved: false }; });
  canvas.addEventListener("pointermove", (event) => {
    if (from && Math.abs(event.offsetX - from.x) > 4) {
      from.moved = true;
      pause(true);
      view.end = from.end - ((event.offsetX - from.x) / width()) * view.span;
      redraw();
    } else if (!from) {
      const span = spanAt(event.offsetX, event.offsetY);
      if (span) tell(span);
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    if (from && !from.moved) select(spanAt(event.offsetX, event.offsetY));
    from = null;
  });
  canvas.addEventListener("pointerleave", () => { from = null; tell(view.selected); });
  canvas.addEventListener("keydown", onKey);
  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

function onKey(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], other = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (step && event.shiftKey) pan(step * 0.1);
  else if (step) selectNext(model.spans, step);
  else if (other && model.transfers.length) selectNext(model.transfers, other);
  else if (event.key === "+" || event.key === "=") zoom(0.5);
  else if (event.key === "-") zoom(2);
  else if (event.key === " ") pause(!view.paused);
  else if (event.key === "End") { select(null); pause(false); }
  else return;
  event.preventDefault();
}

// All of a report.
function whole() {
  const { from } = model.report, length = model.snapshot.now - from;
  Object.assign(view, { span: Math.max(MIN_S, length * 1.02), end: model.snapshot.now + length * 0.01, paused: true });
}

function pause(paused) {
  if (model.report) {
    if (!paused) whole();
    redraw();
    return;
  }
  if (paused && !view.paused) view.end = present();
  view.paused = paused;
  pauseButton.setAttribute("aria-pressed", String(paused));
  redraw();
}

function zoom(factor, around = view.paused ? view.end - view.span / 2 : view.end) {
  const most = model.report ? Math.max(MAX_S, 2 * (model.snapshot.now - model.report.from)) : MAX_S;
  const span = Math.min(most, Math.max(MIN_S, view.span * factor));
  if (view.paused) view.end = around + (view.end - around) * (span / view.span);
  view.span = span;
  redraw();
}

function pan(share) {
  pause(true);
  view.end += share * view.span;
  redraw();
}

function selectNext(all, step) {
  const spans = view.only ? all.filter((span) => span[2] === view.only) : all;
  if (!spans.length) return;
  const at = view.selected ? spans.indexOf(view.selected) : -1;
  const place = at < 0 ? spans.length - 1 : Math.min(spans.length - 1, Math.max(0, at + step));
  pause(true);
  const span = spans[place];
  if (span[0] > view.end || span[0] < view.end - view.span) view.end = span[0] + view.span / 2;
  select(span);
}

function select(span) {
  view.selected = span;
  tell(span);
  redraw();
}

function tell(span) {
  if (!span) {
    setText(detail, HINT);
    return;
  }
  if (isTransfer(span)) {
    const [end, us, to, from, values, size, key] = span;
    detail.replaceChildren(h("strong", {}, `${to} fetched ${many(values, "value")} from ${from}`), `: ${bytes(size)} within ${seconds(us / 1e6)}, ` +
      `until ${clock(dateOf(end), 3)}, ${values > 1 ? "one of them of task" : "of task"} `, taskLink(key));
    return;
  }
  const [end, us, worker, name, runs, kind, key] = span;
  detail.replaceChildren(h("strong", {}, name), ` on ${worker}: ${runs > 1 ? `${many(runs, "run")}, ` : ""}${KIND_WORDS[kind]}, ` +
    `${seconds(us / 1e6)}, ended at ${clock(dateOf(end), 3)}, ${runs > 1 ? "one of the tasks" : "task"} `, taskLink(key));
}

// ---- drawing -------------------------------------------------------------------------------------

const present = () => (model.snapshot ? model.snapshot.now : 0);
const width = () => canvas.clientWidth - LABEL;
const timeAt = (x) => view.end - view.span + ((x - LABEL) / width()) * view.span;
const xOf = (at) => LABEL + ((at - (view.end - view.span)) / view.span) * width();

export function update() {
  fillChooser();
  if (!view.paused) {
    rows.update(keyed(model.spans.slice(-MAX_ROWS).reverse()));
  } else if (model.report) {
    rows.update(keyed([...model.spans].sort((a, b) => b[1] / b[4] - a[1] / a[4]).slice(0, MAX_ROWS)));
  }
  if (!view.paused || model.report) fetched.update(keyed(model.transfers.slice(-MAX_FETCHED).reverse()));
  redraw();
}

const keyed = (all) => all.map((row) => [`${row[0]} ${row[2]} ${row[3]} ${row[6]} ${row[5]}`, row]);

function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    if (model.snapshot && canvas.clientWidth) draw();
  });
}

// Workers that are connected, and those that ran something and are gone.
function names() {
  const all = new Set(Object.keys(model.report?.workers || model.snapshot.workers));
  for (const span of model.spans) all.add(span[2]);
  return [...all].map((name) => [name]).sort(byName).map(([name]) => name);
}

function fillChooser() {
  const all = ["", ...names()];
  if (chooser.options.length === all.length && all.every((name, place) => chooser.options[place].value === name)) return;
  chooser.replaceChildren(...all.map((name) => h("option", { value: name }, name || "all")));
  chooser.value = all.includes(view.only) ? view.only : "";
  view.only = chooser.value;
}

function colours() {
  const style = getComputedStyle(document.documentElement), dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const named = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: named("text"), muted: named("muted"), line: named("line"), bad: named("bad"), warn: named("warn"), back: named("back"), link: named("link"),
    fill: (hue) => (dark ? `hsl(${hue} 35% 32%)` : `hsl(${hue} 55% 80%)`),
  };
}

function draw() {
  if (!view.paused) view.end = present();
  const { all, chosen, lanes, transfers } = knownNow(), total = lanes.reduce((sum, [, own]) => sum + own.length, 0);
  const slim = model.transfers.length ? SLIM : 0;
  const high = Math.max(4, Math.min(20, Math.floor(560 / total)));
  const height = AXIS + total * high + lanes.length * (MARGIN + slim) + 4;
  setText(status, `${seconds(view.span)} shown${view.paused && !model.report ? ", paused" : ""}` +
    (all.length > chosen.length && !view.only ? `; the first ${chosen.length} of ${all.length} workers` : ""));
  canvas.setAttribute("aria-label", `Timeline of ${many(chosen.length, "worker")} over ${seconds(view.span)}, ` +
    `${many(model.spans.length, "span")} and ${many(model.transfers.length, "transfer")} in all`);
  const scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(canvas.clientWidth * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(canvas.clientWidth * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext("2d"), colour = colours();
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, canvas.clientWidth, height);
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  drawAxis(pen, colour, height);
  drawn = [];
  onTop = [];
  const places = new Map(); // of workers: where their lanes begin and end
  let y = AXIS;
  for (const [name, own] of lanes) {
    pen.fillStyle = colour.text;
    pen.fillText(shortened(pen, name, LABEL - 8), 0, y + Math.max(high, own.length * high) / 2);
    pen.fillStyle = colour.line;
    pen.fillRect(LABEL, y + own.length * high + slim + 1, width(), 1);
    pen.save();
    pen.beginPath();
    pen.rect(LABEL, y, width(), own.length * high + slim);
    pen.clip();
    for (const lane of own) {
      drawLane(pen, colour, lane, y, high - 1, false);
      drawLane(pen, colour, lane, y, high - 1, true); // what went wrong is on top
      y += high;
    }
    if (slim) drawTransfers(pen, colour, transfers.get(name), y);
    pen.restore();
    places.set(name, [y - own.length * high, y]);
    y += MARGIN + slim;
  }
  drawIncidents(pen, colour, height, places);
  pen.save();
  pen.beginPath();
  pen.rect(LABEL, 0, width(), height);
  pen.clip();
  for (const crash of onTop) crash();
  pen.restore();
}

let known = { spans: null };

// What is worked out only for other spans or workers, since a report may have very many: names, lanes, and transfers by worker.
function knownNow() {
  if (known.spans === model.spans && known.only === view.only) return known;
  const all = names(), chosen = view.only ? [view.only] : all.slice(0, MAX_WORKERS);
  const transfers = new Map(chosen.map((name) => [name, []]));
  for (const row of model.transfers) transfers.get(row[2])?.push(row);
  known = { spans: model.spans, only: view.only, all, chosen, transfers, lanes: lanesOf(model.spans, chosen, model.slots) };
  return known;
}

// What a worker has fetched: one slim line below its slots.
function drawTransfers(pen, colour, rows, y) {
  let last = -1;
  for (const row of rows) {
    const [end, us] = row, start = end - us / 1e6;
    if (end < view.end - view.span || start > view.end) continue;
    const x = xOf(start), wide = Math.max(3, xOf(end) - x);
    if (wide === 3 && Math.floor(x) === last && row !== view.selected) continue;
    last = Math.floor(x);
    pen.fillStyle = colour.link;
    pen.globalAlpha = row === view.selected ? 1 : 0.8;
    pen.fillRect(x, y, wide, SLIM - 1);
    drawn.push([x, y - 1, wide, SLIM + 1, row]);
  }
  pen.globalAlpha = 1;
}

function drawAxis(pen, colour, height) {
  const wanted = view.span / Math.max(1, width() / 110);
  const steps = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600];
  const step = steps.find((length) => length >= wanted) || 86400;
  const first = Math.ceil((view.end - view.span + model.ahead) / step);
  for (let tick = first; tick * step - model.ahead <= view.end; tick += 1) {
    const x = xOf(tick * step - model.ahead);
    pen.fillStyle = colour.line;
    pen.fillRect(x, AXIS - 4, 1, height);
    pen.fillStyle = colour.muted;
    if (x < canvas.clientWidth - 56) pen.fillText(clock(new Date(tick * step * 1000), step < 1 ? 3 : 0), x + 3, 9);
  }
}

function drawLane(pen, colour, lane, y, high, troubles) {
  const from = view.end - view.span;
  let last = -1;
  for (const span of lane) {
    const [end, , , name, , kind] = span, trouble = kind !== "run";
    if (trouble !== troubles || end < from || startOf(span) > view.end) continue;
    const x = xOf(startOf(span)), wide = Math.max(kind === "crashed" ? CRASH : trouble ? 3 : 1, xOf(end) - x - 0.5);
    if (!trouble && wide === 1 && Math.floor(x) === last && span !== view.selected) continue; // one pixel needs one run
    last = Math.floor(x + wide - 1);
    pen.fillStyle = kind === "failed" || kind === "crashed" ? colour.bad : colour.fill(hueOf(name));
    pen.fillRect(x, y, wide, high);
    if (kind === "again") hatch(pen, colour, x, y, wide, high);
    if (kind === "crashed") onTop.push(() => cross(pen, colour, x, y, wide, high));
    if (span === view.selected) {
      pen.strokeStyle = colour.text;
      pen.lineWidth = 2;
      pen.strokeRect(x, y + 1, Math.max(3, wide), high - 2);
    }
    if (wide > 40 && high > 11) {
      const left = Math.max(x, LABEL); // what begins before the picture is named too
      const text = shortened(pen, name, x + wide - left - 6);
      if (kind === "again") pen.fillRect(left + 2, y + 2, pen.measureText(text).width + 2, high - 4);
      pen.fillStyle = kind === "failed" || kind === "crashed" ? colour.back : colour.text;
      pen.fillText(text, left + 3, y + high / 2);
    }
    drawn.push([x, y, wide, high, span]);
  }
}

const NARROW = 14; // pixels

function hatch(pen, colour, x, y, wide, high) {
  pen.save();
  pen.beginPath();
  pen.rect(x, y, wide, high);
  pen.clip();
  pen.strokeStyle = colour.warn;
  pen.lineWidth = wide < NARROW ? 1.5 : 2;
  pen.beginPath();
  const left = Math.max(x, LABEL - high), right = Math.min(x + wide, canvas.clientWidth);
  for (let at = left - high; at < right; at += 7) {
    pen.moveTo(at, y + high);
    pen.lineTo(at + high, y);
  }
  if (wide >= NARROW) pen.rect(x + 1, y + 1, wide - 2, high - 2); // on a narrow one, nothing would be left of its hatching
  pen.stroke();
  pen.restore();
}

function cross(pen, colour, x, y, wide, high) {
  pen.fillStyle = colour.bad;
  pen.fillRect(x, y, wide, high);
  pen.strokeStyle = colour.back;
  pen.lineWidth = 2;
  pen.beginPath();
  pen.moveTo(x + wide - Math.min(wide, high), y);
  pen.lineTo(x + wide, y + high);
  pen.moveTo(x + wide, y);
  pen.lineTo(x + wide - Math.min(wide, high), y + high);
  pen.stroke();
}

// A dashed line with a label at the top, along the lanes of the worker that an incident is about, or along all.
function drawIncidents(pen, colour, height, places) {
  const shown = model.incidents.filter(({ at }) => at >= view.end - view.span && at <= view.end);
  pen.strokeStyle = colour.bad;
  pen.lineWidth = 1;
  for (const { at, what } of shown) {
    const x = xOf(at), about = what.slice(what.lastIndexOf(" ") + 1), [top, bottom] = places.get(about) || [AXIS - 4, height];
    pen.setLineDash([]);
    pen.beginPath();
    pen.moveTo(x, LABELS[0] - 6);
    pen.lineTo(x, AXIS - 5);
    pen.stroke();
    pen.setLineDash([4, 3]);
    pen.beginPath();
    pen.moveTo(x, top);
    pen.lineTo(x, bottom);
    pen.stroke();
  }
  pen.setLineDash([]);
  const taken = LABELS.map(() => []);
  for (const { at, kind, what } of shown.sort((a, b) => rankOf(a.kind) - rankOf(b.kind)).slice(0, MOST_LABELS)) {
    const text = shortened(pen, labelOf(kind, what), MOST_LABEL), wide = pen.measureText(text).width + 6;
    const x = Math.min(xOf(at), canvas.clientWidth - wide);
    const row = taken.findIndex((all) => all.every(([left, right]) => x + wide < left || x > right));
    if (row < 0) continue; // the cards have it
    taken[row].push([x, x + wide]);
    pen.fillStyle = colour.back;
    pen.fillRect(x + 1, LABELS[row] - 7, wide - 1, 14);
    pen.fillStyle = colour.bad;
    pen.fillText(text, x + 4, LABELS[row]);
  }
}

function labelOf(kind, what) {
  if (kind.startsWith("worker ")) return `${what} ${kind.slice(7)}`;
  return kind === "executor died" ? "process died" : kind;
}

function shortened(pen, text, most) {
  if (most < 12) return "";
  let shown = text.length > 200 ? text.slice(0, 200) : text;
  while (shown && pen.measureText(shown).width > most) shown = shown.slice(0, Math.floor(shown.length * 0.9) - 1);
  return shown.length < text.length ? `${shown.slice(0, -1)}…` : shown;
}

function spanAt(x, y) {
  const hits = drawn.filter(([left, top, wide, high]) => x >= left - 2 && x <= left + wide + 2 && y >= top && y <= top + high);
  return hits.length ? hits.at(-1)[4] : null;
}
