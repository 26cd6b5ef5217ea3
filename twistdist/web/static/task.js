// A task: its story, what it has written, its lineage, and what would be lost with the workers that hold its value.

import { clock, h, many, replace, svg, taskLink } from "./dom.js";
import { ask, dateOf, model } from "./model.js";
import { whatIf } from "./data.js";

// Nodes of a lineage that are drawn, and that are listed.
const MAX_DRAWN = 200, MAX_LISTED = 500;

// Milliseconds between two looks at a task.
const LOOK_MS = 2000;

// Looks at what a task has written after nothing else has changed: its last lines may arrive late.
const MORE_LOOKS = 2;

const WORDS = {
  waiting: "waits for inputs", ready: "waits for a worker", assigned: "a worker has it", awaited: "its data must be sent again",
  idle: "has no value at the moment, and nobody needs it",
};

let key = "", input, found, output, lookedAt = -Infinity, looks = 0, signature = "", written = "";

export function mount(section) {
  input = h("input", { id: "key", name: "key", autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
  const form = h("form", { class: "find" }, h("label", { for: "key" }, "Key of a task"), input, h("button", { type: "submit" }, "Show"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = `#task=${encodeURIComponent(input.value)}`;
  });
  found = h("div", {});
  output = h("div", { class: "output" });
  section.append(form, found);
}

// Show the task with this key; "" for none.
export function show(wanted) {
  key = wanted;
  input.value = key;
  signature = "";
  lookedAt = -Infinity;
  written = "";
  output.replaceChildren();
  found.replaceChildren(...(key ? [] : [h("p", { class: "muted" }, "Type a key, or choose a task in the timeline or in an incident."),
    ...(model.report ? [links(Object.entries(model.report.stories).map(([name, { story }]) => [name, story.state]), "This report has no stories.")] : [])]));
}

export function update() {
  if (!key || performance.now() - lookedAt < LOOK_MS) return;
  lookedAt = performance.now();
  look(key);
}

async function look(wanted) {
  let story, lineage = [], trouble = "";
  try {
    story = await ask("tasks", wanted);
    lineage = await ask("lineage", wanted);
  } catch (error) {
    trouble = error.message;
  }
  if (wanted !== key) return; // another one was chosen meanwhile
  const now = JSON.stringify([{ ...story, events: story?.events.map(([, text]) => text) }, lineage, trouble]);
  looks = now === signature ? looks + 1 : 0;
  if (story && (looks < MORE_LOOKS || story.state === "assigned")) lookAtOutput(wanted);
  if (now === signature) return;
  signature = now;
  replace(found, ...(story ? told(story, lineage, trouble) : [h("p", { class: "notice warn" },
    h("strong", {}, wanted), `: ${trouble}. ` + (model.report ? "A report has the stories of tasks that failed or were run again."
      : "The scheduler forgets a task when nobody needs it any more."))]));
}

// What the task has written, as far as the workers that ran it still have it.
async function lookAtOutput(wanted) {
  let lines = [], words = "";
  try {
    const answer = await ask("output", wanted), several = Object.keys(answer.lines).length > 1;
    lines = Object.entries(answer.lines || {}).flatMap(([worker, own]) => own.map((line) => [several ? `${worker} ` : "", line]));
    if (answer.silent.length) words = `${answer.silent.join(", ")} did not answer.`;
    if (!answer.lines) words = model.report ? "It is not in this report." : "It did not run yet, or no worker that ran it can be asked.";
  } catch (error) {
    words = error.message;
  }
  const now = JSON.stringify([lines, words]);
  if (wanted !== key || now === written) return;
  written = now;
  output.replaceChildren(
    ...(lines.length ? [h("pre", { tabindex: "0", role: "region", "aria-label": "Output" }, ...lines.map(([worker, line]) =>
      h("span", { class: line.startsWith("stderr") ? "stderr" : "" }, `${worker}${line}\n`)))] : []),
    h("p", { class: "muted" }, words || (lines.length ? "The last lines that it has written, as far as its worker still has them." :
      "Nothing: it has written nothing, or so long ago that its worker has other tasks' lines by now.")));
}

function told(story, lineage, trouble) {
  const inputs = Object.entries(story.inputs);
  const facts = [
    ["State", h("span", { class: `state ${story.state}` }, story.state), ` ${WORDS[story.state] || ""}`],
    ...(story.worker ? [["Worker", story.worker]] : story.ran_on.length ? [["Ran last on", story.ran_on.join(", ")]] : []),
    ...(story.holders.length ? [["Its value is on", story.holders.join(", ")]] : []),
    ...(story.state === "waiting" ? [["Inputs without a value", String(story.missing)]] : []),
    ...(story.raised ? [["Attempts that raised an exception", String(story.raised)]] : []),
    ...(story.exposed ? [["Workers that died while it ran on them", String(story.exposed)]] : []),
    ...(story.lost_inputs ? [["Times that its inputs could not be fetched", String(story.lost_inputs)]] : []),
    ...(story.lacks ? [["No connected worker may run it", story.lacks]] : []),
  ];
  return [
    h("h3", { class: "key" }, story.key),
    h("dl", { class: "facts" }, ...facts.map(([term, ...text]) => h("div", {}, h("dt", {}, term), h("dd", {}, ...text)))),
    ...(story.error ? [h("h4", {}, "Why it failed"), h("pre", { class: "bad" }, story.error)] : []),
    ...(story.traceback ? [h("details", { open: true }, h("summary", {}, "Its traceback"), h("pre", {}, story.traceback))] : []),
    ...(story.crashes.length ? [h("h4", {}, "How its processes died"), ...story.crashes.map((text) => h("pre", {}, text))] : []),
    h("h4", {}, "What happened"), events(story.events),
    h("h4", {}, "Output"), output,
    h("h4", {}, "Inputs"), links(inputs.map(([name, state]) => [name, state]), "It takes no values of other tasks."),
    ...(lineage.length || trouble ? [h("h4", {}, "Lineage"), ...lineageOf(lineage, story.key, trouble)] : []),
    ...(story.holders.length && !model.report ? [h("h4", {}, "What if"), ...story.holders.slice(0, 10).map(whatIf)] : []),
  ];
}

function events(all) {
  if (!all.length) return h("p", { class: "muted" }, "Nothing is remembered.");
  return h("ol", { class: "events" }, ...all.map(([age, text]) => {
    const at = dateOf(model.snapshot.now - age);
    return h("li", {}, h("time", { datetime: at.toISOString() }, clock(at, 3)), " ", readable(text));
  }));
}

// The cause of a loss in brackets, instead of one colon after the other.
const readable = (text) => text.replace(/^(its only copy was lost with [^:]+): (.+)$/s, (_, lost, cause) => `${lost} (${cause.replaceAll(": ", ", ")})`);

function links(named, empty) {
  if (!named.length) return h("p", { class: "muted" }, empty);
  const more = named.length > MAX_LISTED ? [h("li", { class: "muted" }, `… and ${named.length - MAX_LISTED} more`)] : [];
  return h("ul", { class: "keys" }, ...named.slice(0, MAX_LISTED).map(([name, text]) =>
    h("li", {}, taskLink(name), h("span", { class: "muted" }, ` ${text}`))), ...more);
}

// ---- lineage -------------------------------------------------------------------------------------

function lineageOf(nodes, own, trouble) {
  if (trouble) return [h("p", { class: "warn" }, trouble)];
  const words = `Its value depends on ${many(nodes.length - 1, "task")}. Arrows go from inputs to what uses them.`;
  if (nodes.length > MAX_DRAWN) {
    return [h("p", { class: "muted" }, `${words} Too many to draw.`), links([...nodes].reverse().map((node) => [node[0], node[2]]), "")];
  }
  return [h("p", { class: "muted" }, words),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Lineage", "data-focus": "lineage" }, draw(nodes, own))];
}

// [key, function, state, inputs, holders] in layers from the top: each below all of its inputs.
function layersOf(nodes) {
  const depth = [];
  nodes.forEach(([, , , inputs], place) => { depth[place] = inputs.reduce((most, input) => Math.max(most, depth[input] + 1), 0); });
  const layers = [];
  depth.forEach((layer, place) => (layers[layer] ||= []).push(place));
  const at = new Map(); // the place of a node within its layer, from 0 to 1
  for (const layer of layers) {
    const middle = (place) => {
      const { 3: inputs } = nodes[place];
      return inputs.length ? inputs.reduce((sum, input) => sum + at.get(input), 0) / inputs.length : place / nodes.length;
    };
    const middles = new Map(layer.map((place) => [place, middle(place)]));
    layer.sort((a, b) => middles.get(a) - middles.get(b));
    layer.forEach((place, index) => at.set(place, (index + 0.5) / layer.length));
  }
  return layers;
}

const WIDE = 150, HIGH = 44, GAP = 16, RISE = 40;
const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function draw(nodes, own) {
  const layers = layersOf(nodes), widest = Math.max(...layers.map((layer) => layer.length));
  const width = widest * (WIDE + GAP) + GAP, height = layers.length * (HIGH + RISE);
  const spots = [];
  layers.forEach((layer, row) => layer.forEach((place, column) => {
    spots[place] = [GAP / 2 + (width - layer.length * (WIDE + GAP)) / 2 + column * (WIDE + GAP), 4 + row * (HIGH + RISE)];
  }));
  const arrows = nodes.flatMap(([, , , inputs], place) => [...new Set(inputs)].map((input) => {
    const [x1, y1] = spots[input], [x2, y2] = spots[place];
    return svg("path", { class: "arrow", "marker-end": "url(#head)",
      d: `M${x1 + WIDE / 2} ${y1 + HIGH}C${x1 + WIDE / 2} ${y1 + HIGH + RISE / 2} ${x2 + WIDE / 2} ${y2 - RISE / 2} ${x2 + WIDE / 2} ${y2 - 2}` });
  }));
  const boxes = nodes.map(([name, made, state, , holders], place) => {
    const [x, y] = spots[place];
    const where = holders.length ? `, on ${holders.join(", ")}` : "";
    return svg("a", { href: `#task=${encodeURIComponent(name)}`, "aria-label": `${name}, ${made}, ${state}${where}`, "data-focus": `node ${name}` },
      svg("title", {}, `${name}\n${made}, ${state}${where}`),
      svg("rect", { x, y, width: WIDE, height: HIGH, rx: 6, class: `node ${state}${name === own ? " own" : ""}` }),
      svg("text", { x: x + 8, y: y + 18 }, short(name, 19)),
      svg("text", { x: x + 8, y: y + 35, class: "small" }, short(`${made}: ${state}`, 22)));
  });
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "lineage", role: "group", "aria-label": "Lineage" },
    svg("defs", {}, svg("marker", { id: "head", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
      svg("path", { d: "M0 0L8 4L0 8z", class: "head" }))),
    ...arrows, ...boxes);
}
