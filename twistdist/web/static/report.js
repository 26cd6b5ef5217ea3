// A report: what the live page would have shown, read from the file itself.

import { byId, bytes, clock, count, h, many, seconds, setText, shows, table, taskLink } from "./dom.js";
import { dateOf, model, take } from "./model.js";
import { mountViews } from "./views.js";
import { mount as mountTimeline, update as updateTimeline } from "./timeline.js";
import { byKind, isFault, mount as mountIncidents, update as updateIncidents } from "./incidents.js";
import { mount as mountTask, show as showTask, update as updateTask } from "./task.js";
import { againIn, byName } from "./now.js";

const data = JSON.parse(byId("data").textContent);

// ---- where answers come from -----------------------------------------------------------------------

async function ask(path, key) {
  const known = Object.hasOwn(data.stories, key) ? data.stories[key] : null;
  if (path === "output") return known?.output || { lines: null, silent: [] };
  if (!known?.story) throw new Error("not in this report");
  if (path === "lineage") return known.lineage || [];
  return { ...known.story, events: known.story.events.map(([at, text]) => [data.snapshot.now - at, text]) };
}

// ---- summary ---------------------------------------------------------------------------------------

const day = (at) => new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const utc = (at) => `${new Date(at * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;

const both = (at) => (new Date(at * 1000).getTimezoneOffset() ? `${day(at)} (${utc(at)})` : utc(at));

// Tasks that the summary names.
const MAX_NAMED = 10;

function sentences() {
  const { dropped, lives, error, notes } = data, found = [];
  if (error) found.push(["bad", `The block that was recorded ended with an error: ${error}`]);
  const faults = model.incidents.filter(isFault);
  if (faults.length) found.push(["bad", `${many(faults.length, "fault")}: ${byKind(faults)}. `, h("a", { href: "#incidents" }, "What happened")]);
  const failed = Object.entries(data.stories).filter(([, { story }]) => story.state === "failed").map(([key]) => key);
  if (failed.length) {
    found.push(["bad", `${many(failed.length, "task")} failed for good: `, ...failed.slice(0, MAX_NAMED).flatMap((key, place) => [place ? ", " : "", taskLink(key)]),
      ...(failed.length > MAX_NAMED ? [" and ", h("a", { href: "#task" }, "more")] : [])]);
  }
  if (!found.length && !data.snapshot.tasks.failed) found.push(["", "No fault was noticed, and no task failed."]);
  for (const note of notes) found.push(["warn", `${note[0].toUpperCase()}${note.slice(1)}.`]);
  if (lives.length > 1) {
    found.push(["warn", `The scheduler was restarted ${lives.length > 2 ? `${count(lives.length - 1)} times` : "once"}, ` +
      `${lives.slice(0, -1).map(([, until]) => gapAfter(until)).join(", ")}. What happened then is not in this report.`]);
  }
  if (dropped.spans) {
    found.push(["", data.recorded ? `${many(dropped.spans, "span")} of the timeline came faster than they could be recorded and are not drawn. The cost has them.`
      : `The scheduler remembers the last ${count(model.spans.length)} spans of the timeline; ${count(dropped.spans)} older ones are not in this report. ` +
        "The cost has all of them."]);
  }
  if (dropped.short) found.push(["", `${many(dropped.short, "short run")} of tasks that went well are not drawn, since there were too many. The cost has them.`]);
  if (dropped.transfers) found.push(["", `${many(dropped.transfers, "older transfer")} between workers are not in this report.`]);
  if (dropped.incidents) found.push(["warn", `${many(dropped.incidents, "older incident")} are not in this report.`]);
  return found;
}

// Between the last answer of one life of the scheduler and its restart, if that is known.
function gapAfter(until) {
  const again = model.incidents.findLast(({ kind, at }) => kind === "scheduler restarted" && at > until); // the oldest comes last
  const [begin, end] = [until, again?.at ?? until].map((at) => clock(dateOf(at)));
  return !again ? `after ${begin}` : begin === end ? `at ${begin}` : `between ${begin} and ${end}`;
}

function facts() {
  const { snapshot, workers, counters } = data, all = Object.values(workers), { from } = model.report;
  const slots = all.reduce((sum, worker) => sum + worker.slots, 0), hosts = new Set(all.map((worker) => worker.host));
  const gone = Object.keys(workers).filter((name) => !Object.hasOwn(snapshot.workers, name)).length;
  return [
    ["What", data.recorded ? "what the cluster did while a block of a program ran" : "what the scheduler remembered"],
    ["From", both(from)],
    ["Until", both(data.ended ?? snapshot.now)],
    ["How long", seconds((data.ended ?? snapshot.now) - from)],
    ["Tasks", `${count(counters.submitted)} submitted, ${many(counters.done, "run")} done, ${many(counters.failed, "task")} failed`],
    ["Run again", againIn(counters.replays, counters.reruns)],
    ["Incidents", count(model.incidents.length)],
    ["Cluster", `${many(all.length, "worker")}${gone ? `, ${count(gone)} of them gone at the end` : ""}, ${many(slots, "slot")}, ${many(hosts.size, "host")}`],
    ["Scheduler", `${data.address}; journal: ${snapshot.journal.state}`],
    ["Versions of the scheduler", snapshot.versions],
    ["Versions of the workers", [...new Set(all.map((worker) => worker.versions))].join("; ") || "unknown"],
    ["Versions of the client", data.versions],
  ];
}

// Times of a column, all in the unit of the longest.
function likeLongest(times) {
  const [us, places, unit] = Math.max(0, ...times) < 10e6 ? [1e3, 2, "ms"] : [1e6, 3, "s"], least = 10 ** -places;
  return (time) => (time && time / us < least / 2 ? `< ${least} ${unit}`
    : `${(time / us).toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places })} ${unit}`);
}

function costTable(caption, rows, empty) {
  const meanOf = ([, done, failed, , us]) => us / Math.max(1, done + failed);
  const inAll = likeLongest(rows.map((row) => row[4])), mean = likeLongest(rows.map(meanOf));
  const shown = table(caption, [
    { head: "name", text: ([name]) => name },
    { head: "runs", number: true, text: ([, done, failed]) => count(done + failed) },
    { head: "time in all", number: true, text: (row) => inAll(row[4]) },
    { head: "mean", number: true, text: (row) => mean(meanOf(row)) },
    { head: "run again", number: true, text: (row) => count(row[3]), look: (row) => (row[3] ? "warn" : "") },
    { head: "failed", number: true, text: (row) => count(row[2]), look: (row) => (row[2] ? "bad" : "") },
  ], empty);
  shown.update([...rows].sort((a, b) => b[4] - a[4]).map((row) => [row[0], row]));
  return shown.element;
}

function workersTable() {
  const names = new Map(data.snapshot.hosts);
  const shown = table("Workers", [
    { head: "name", text: (worker) => worker.name },
    { head: "at the end", text: (worker) => (worker.here ? worker.state : "gone"), look: (worker) => (worker.here && worker.state === "connected" ? "good" : "bad") },
    { head: "slots", number: true, text: (worker) => count(worker.slots) },
    { head: "memory", number: true, text: (worker) => bytes(worker.memory) },
    { head: "address", text: (worker) => worker.address },
    { head: "host", text: (worker) => names.get(worker.host) || worker.host },
    { head: "trouble", text: (worker) => worker.troubles.at(-1) || "none" },
  ], "There was no worker.");
  const rows = Object.entries(data.workers).map(([name, worker]) => [name, { ...worker, name, here: Object.hasOwn(data.snapshot.workers, name) }]);
  shown.update(rows.sort(byName));
  return shown.element;
}

const summary = {
  mount(section) {
    section.append(
      ...sentences().map(([kind, ...text]) => h("p", { class: `notice ${kind}` }, ...text)),
      h("dl", { class: "facts" }, ...facts().map(([term, text]) => h("div", {}, h("dt", {}, term), h("dd", {}, text)))),
      h("h3", {}, "Cost"),
      costTable("Cost by function", data.functions, "Nothing has run."),
      costTable("Cost by group", data.groups, "No groups were in use."),
      h("h3", {}, "Workers"), workersTable());
  },
  update() {},
};

// ---- the page --------------------------------------------------------------------------------------

const first = data.snapshot.spans.reduce((least, span) => Math.min(least, span[0] - span[1] / 1e6 / Math.max(1, span[4])), data.snapshot.now);
model.report = { ...data, ask, from: data.began ?? first };
for (const [name, worker] of Object.entries(data.workers)) model.slots.set(name, worker.slots);
shows.task = (key) => Object.hasOwn(data.stories, key);
take(data.snapshot, true);
setText(byId("made"), `made ${utc(data.made)}`);
byId("incident-count").hidden = !model.incidents.length;
setText(byId("incident-count"), String(model.incidents.length));
const views = {
  summary,
  timeline: { mount: mountTimeline, update: updateTimeline },
  incidents: { mount: mountIncidents, update: updateIncidents },
  task: { mount: mountTask, show: showTask, update: updateTask },
};
mountViews(views, (title) => { document.title = `${title} – twistdist report of ${utc(model.report.from)}`; });
