// Now: what the cluster does, and what needs attention.

import { ago, bytes, clock, count, h, many, replace, seconds, setText, svg, table, taskLink } from "./dom.js";
import { byKind } from "./incidents.js";
import { dateOf, model } from "./model.js";

const STATES = [
  ["waiting", "for inputs"],
  ["ready", "for a worker"],
  ["assigned", "a worker has it"],
  ["awaited", "to be sent again"],
  ["done", "has a value"],
  ["failed", "gave no value"],
  ["idle", "not needed now"],
];
const GOOD = ["connected", "retiring"];

// Seconds for which an incident counts as something that needs attention.
const RECENT_S = 300;

// Tasks that failed and are named.
const MAX_NAMED = 5;

// Rows of a table of workers.
const MAX_WORKERS = 200;

let parts;

export function mount(section) {
  parts = {
    lead: h("p", { class: "lead" }),
    attention: h("div", { class: "attention" }),
    tiles: {},
    rate: h("p", { class: "figure" }),
    chart: h("div", {}),
    functions: progressTable("Functions", "No task has been submitted yet."),
    groups: progressTable("Groups", "No groups are in use."),
    workers: workersTable(),
    more: h("p", { class: "muted" }),
    rest: h("dl", { class: "facts" }),
  };
  const tiles = STATES.map(([state, meaning]) => {
    parts.tiles[state] = { number: h("dd", {}, "0"), meaning: h("small", {}, meaning) };
    parts.tiles[state].tile = h("div", { class: `tile ${state}` }, h("dt", {}, state, parts.tiles[state].meaning), parts.tiles[state].number);
    return parts.tiles[state].tile;
  });
  section.append(
    parts.lead, parts.attention,
    h("h3", {}, "Tasks"), h("dl", { class: "tiles" }, ...tiles),
    h("h3", {}, "Throughput"), parts.rate, parts.chart,
    h("h3", {}, "Progress"), parts.functions.element, parts.groups.element,
    h("h3", {}, "Scheduler"), parts.rest,
    h("h3", {}, "Workers"), parts.workers.element, parts.more);
}

export function update() {
  const { snapshot } = model;
  if (!snapshot) return;
  for (const [state] of STATES) setText(parts.tiles[state].number, count(snapshot.tasks[state] || 0));
  const stuck = stuckOf(snapshot);
  setText(parts.tiles.ready.meaning, stuck ? `${count(stuck)} can't run` : "for a worker");
  parts.tiles.ready.tile.classList.toggle("stuck", stuck > 0);
  setText(parts.lead, leadOf(snapshot, stuck));
  showAttention(snapshot);
  showRate(snapshot);
  parts.functions.update(snapshot.functions.map((row) => [row[0], row]));
  parts.groups.update(snapshot.groups.map((row) => [row[0], row]));
  const workers = workerRows(snapshot, (worker) => (GOOD.includes(worker.state) ? 0 : 1));
  parts.workers.update(workers);
  setText(parts.more, notShown(snapshot, workers));
  showRest(snapshot);
}

export const byName = ([a], [b]) => a.localeCompare(b, "en", { numeric: true });

// [[name, worker], …] for a table: those with the greatest `weight` first, and not more than anybody reads.
export function workerRows(snapshot, weight) {
  const rows = Object.entries(snapshot.workers).map(([name, worker]) => [name, { name, ...worker }]);
  return rows.sort((a, b) => weight(b[1]) - weight(a[1]) || byName(a, b)).slice(0, MAX_WORKERS);
}

export function notShown(snapshot, rows) {
  const more = Object.keys(snapshot.workers).length - rows.length;
  return more ? `… and ${count(more)} more` : "";
}

// Ready tasks that no worker can run.
function stuckOf({ tasks, lacks }) {
  return Math.min(tasks.ready || 0, Object.values(lacks).reduce((sum, number) => sum + number, 0));
}

function leadOf({ workers, tasks }, stuck) {
  const all = Object.values(workers), here = all.filter((worker) => GOOD.includes(worker.state)).length;
  const wanted = STATES.reduce((sum, [state]) => sum + (state === "idle" ? 0 : tasks[state] || 0), 0);
  const running = all.reduce((sum, worker) => sum + worker.running, 0);
  return `${count(here)} of ${many(all.length, "worker")}; ${count(tasks.done || 0)} of ${many(wanted, "task")} done, ` +
    `${count(tasks.failed || 0)} failed, ${count(stuck)} stuck, ${count(running)} running.`;
}

// ---- what needs attention ------------------------------------------------------------------------

// What tasks lack, in short if every worker is named in it and has nothing to offer.
function lackIn(text, workers) {
  const [needs, ...offers] = text.split("; "), names = needs.match(/^it needs (.+)$/)?.[1].split(", ").map((part) => part.split("=")[0]);
  const known = new Set(Object.keys(workers).map((name) => `${name} has no resources`));
  if (!names || offers.length !== known.size || !offers.every((offer) => known.has(offer))) return text;
  return `${needs}, and ${known.size > 1 ? `none of ${known.size} workers` : "the only worker"} offers ${names.join(" or ")}`
    .replace("the only worker offers", "the only worker does not offer");
}

function troubles(snapshot) {
  const found = [];
  if (snapshot.recovering) {
    found.push(["The scheduler was restarted and waits for workers to come back: ", snapshot.recovering.join(", ")]);
  }
  if (snapshot.journal.state === "failing") found.push(["The journal can't be written: ", snapshot.journal.error || ""]);
  const workers = Object.entries(snapshot.workers);
  if (!workers.length) found.push(["No worker is connected."]);
  for (const [name, worker] of workers.sort(byName)) {
    if (GOOD.includes(worker.state)) continue;
    const why = worker.troubles.at(-1);
    found.push([`Worker ${name} is ${worker.state}, last heard ${ago(worker.last_seen)}${why ? `: ${why}` : "."}`]);
  }
  for (const [text, tasks] of Object.entries(snapshot.lacks)) {
    const key = model.incidents.find(({ kind, cause }) => kind === "tasks wait" && cause === text)?.key;
    found.push([`${many(tasks, "task")} can't run on any worker: ${lackIn(text, snapshot.workers)}. `,
      ...(key ? ["First noticed: ", taskLink(key)] : [])]);
  }
  const failed = snapshot.tasks.failed || 0;
  if (failed) {
    const keys = new Set();
    for (let at = model.spans.length - 1; at >= 0 && keys.size < Math.min(failed, MAX_NAMED); at -= 1) {
      if (["failed", "crashed"].includes(model.spans[at][5])) keys.add(model.spans[at][6]);
    }
    found.push([`${many(failed, "task")} failed. `, ...(keys.size ? [keys.size > 1 ? "Latest runs that failed: " : "Latest run that failed: "] : []),
      ...[...keys].flatMap((key, place) => [place ? ", " : "", taskLink(key)])]);
  }
  const recent = model.incidents.filter((incident) => snapshot.now - incident.at < RECENT_S);
  if (recent.length) {
    found.push([`In the last ${RECENT_S / 60} minutes: ${byKind(recent)}. `,
      h("a", { href: "#incidents", "data-focus": "incidents" }, "What happened")]);
  }
  return found;
}

function showAttention(snapshot) {
  const found = troubles(snapshot).slice(0, 20);
  const signature = JSON.stringify(found.map((parts) => parts.map((part) => part.textContent ?? part)));
  if (parts.attention.dataset.signature === signature) return;
  parts.attention.dataset.signature = signature;
  parts.attention.classList.toggle("warn", found.length > 0);
  replace(parts.attention, h("h3", {}, found.length ? "Needs attention" : "Nothing needs attention"),
    ...(found.length ? [h("ul", {}, ...found.map((text) => h("li", {}, ...text)))] : []));
}

// ---- throughput ----------------------------------------------------------------------------------

function showRate(snapshot) {
  const { rates } = model, last = rates.at(-1);
  const { submitted, done, failed, replays, reruns } = snapshot.counters;
  const gone = failed - (snapshot.tasks.failed || 0);
  setText(parts.rate, `${last === undefined ? "… tasks" : many(Math.round(last), "task")} a second. In all: ${many(submitted, "task")} submitted, ` +
    `${many(done, "run")} done, ${many(failed, "task")} failed${gone > 0 ? ` (${count(gone)} of them forgotten or retried since)` : ""}; ${againIn(replays, reruns)}.`);
  const most = Math.max(0, ...rates), width = 480, height = 60;
  const points = rates.map((rate, place) => `${width - (rates.length - 1 - place) * 4},${height - 2 - (rate / (most || 1)) * (height - 6)}`);
  const words = `Tasks a second in the last ${many(rates.length, "second")}: peak ${count(most)}, now ${count(last || 0)}`;
  parts.chart.replaceChildren(
    svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": words, preserveAspectRatio: "none" },
      svg("polyline", { points: points.join(" "), class: "line" })),
    h("p", { class: "muted" }, `${words}.`));
}

export const againIn = (replays, reruns) => `${count(replays)} computed again because their value was lost, ` +
  `${count(reruns)} started again because a run was interrupted or raised an exception`;

// ---- progress ------------------------------------------------------------------------------------

function progressTable(caption, empty) {
  return table(caption, [
    { head: "name", text: ([name]) => name },
    { head: "progress", make: () => h("div", { class: "bar", "aria-hidden": "true" }, h("i", { class: "done" }), h("i", { class: "failed" })),
      update: (bar, [, pending, done, failed]) => {
        const all = Math.max(1, pending + done + failed);
        bar.children[0].style.width = `${(100 * done) / all}%`;
        bar.children[1].style.width = failed ? `max(3px, ${(100 * failed) / all}%)` : "0";
      } },
    { head: "done", number: true, text: ([, pending, done, failed]) => `${count(done)} of ${count(done + pending + failed)}` },
    { head: "failed", number: true, text: (row) => count(row[3]), look: (row) => (row[3] ? "bad" : "") },
    { head: "run again", number: true, text: (row) => count(row[4]), look: (row) => (row[4] ? "warn" : "") },
    { head: "time", number: true, text: (row) => seconds(row[5] / 1e6) },
  ], empty);
}

// ---- workers and the rest ------------------------------------------------------------------------

function workersTable() {
  return table("Workers", [
    { head: "name", text: (worker) => worker.name },
    { head: "state", text: (worker) => worker.state, look: (worker) => (GOOD.includes(worker.state) ? "good" : "bad") },
    { head: "slots", number: true, text: (worker) => count(worker.slots) },
    { head: "running", number: true, text: (worker) => count(worker.running) },
    { head: "queued", number: true, text: (worker) => count(worker.queued) },
    { head: "memory", number: true, text: (worker) => bytes(worker.memory) },
    { head: "last heard", number: true, text: (worker) => ago(worker.last_seen) },
    { head: "trouble", text: (worker) => worker.troubles.at(-1) || "none" },
  ], "No worker is connected.");
}

function journalText(journal) {
  if (journal.state === "none") return "none: a scheduler that is restarted has forgotten its tasks";
  const waiting = journal.lag > 0.1 ? `, a write has been going on for ${seconds(journal.lag)}` : "";
  return `${journal.state}, ${bytes(journal.bytes || 0)}, the last write took ${seconds(journal.write || 0)}${waiting}`;
}

function showRest(snapshot) {
  const { sessions } = snapshot, durable = Object.entries(sessions.durable);
  const facts = [
    ["Queue", `${many((snapshot.tasks.ready || 0) + (snapshot.tasks.waiting || 0), "task")} wait at the scheduler`],
    ["Journal", journalText(snapshot.journal)],
    ["Sessions", `${many(sessions.connected, "client")} connected, ${count(sessions.away)} away`],
    ["Durable sessions", durable.map(([name, kept]) => `${name} keeps ${many(kept, "result")}`).join(", ") || "none"],
    ["Epoch", `${snapshot.epoch}, the scheduler's clock at ${clock(dateOf(snapshot.now))}`],
  ];
  if (parts.rest.children.length !== facts.length) {
    parts.rest.replaceChildren(...facts.map(() => h("div", {}, h("dt", {}), h("dd", {}))));
  }
  facts.forEach(([term, text], place) => {
    setText(parts.rest.children[place].children[0], term);
    setText(parts.rest.children[place].children[1], text);
  });
}
