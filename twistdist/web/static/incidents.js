// Incidents: each fault as a card, in words.

import { ago, clock, h, many, replace, seconds, setText, taskLink } from "./dom.js";
import { dateOf, model, takeCosts } from "./model.js";

// Kinds that are no fault, or the end of one.
const CALM = ["worker left", "worker retired", "worker back", "slot lent", "scheduler restarted"];

export const isFault = ({ kind }) => !CALM.includes(kind);

// Kinds in the words of this page, for one and for several; those that cost the most come first.
const WORDS = {
  "worker lost": ["worker lost", "workers lost"],
  "workers missing": ["loss at a restart", "losses at a restart"],
  "files lost": ["loss of files", "losses of files"],
  "cluster restarted": ["restart of the cluster", "restarts of the cluster"],
  "scheduler restarted": ["restart of the scheduler", "restarts of the scheduler"],
  "worker stuck": ["worker stuck", "workers stuck"],
  "no progress": ["time without progress", "times without progress"],
  "executor died": ["task process died", "task processes died"],
  "worker suspected": ["worker suspected", "workers suspected"],
  "tasks wait": ["wait for a worker that can run a task", "waits for a worker that can run a task"],
};
const KINDS = Object.keys(WORDS);

const MAX_WHATS = 3;

// The less, the worse.
export const rankOf = (kind) => (KINDS.includes(kind) ? KINDS.indexOf(kind) : KINDS.length) + (CALM.includes(kind) ? KINDS.length : 0);

const wordsOf = (kind) => (kind === "executor died" ? WORDS[kind][0] : kind);

// "1 worker lost (w0, 38 values), 2 task processes died (a on w1, b on w1)", the worst first.
export function byKind(incidents) {
  const groups = new Map();
  for (const incident of incidents) groups.set(incident.kind, [...groups.get(incident.kind) || [], incident]);
  return [...groups].sort(([a], [b]) => rankOf(a) - rankOf(b)).map(([kind, all]) => {
    const lost = all.reduce((sum, incident) => sum + (incident.lost || 0), 0), whats = [...new Set(all.map(({ what }) => what))];
    const [one, several] = WORDS[kind] || [kind, `times ${kind}`];
    const details = [...whats.slice(0, MAX_WHATS), ...(whats.length > MAX_WHATS ? ["…"] : []), ...(lost ? [many(lost, "value")] : [])];
    return `${many(all.length, one, several)} (${details.join(", ")})`;
  }).join(", ");
}

const COSTS = [
  ["requeued", (number) => `${many(number, "task")} that it had were given out again`],
  ["lost", (number) => `${many(number, "value")} lost that were needed`],
  ["replayed", (number) => `${many(number, "task")} run again to bring them back`],
  ["adopted", (number) => `${many(number, "value")} came back with a worker`],
];

const MAX_CARDS = 200, MAX_REPORTED = 1000;

// Seconds for which what an incident cost may still grow, while values are computed again.
const GROWS_S = 600;

let list, none;

export function mount(section) {
  list = h("div", { class: "cards" });
  none = h("p", {}, model.report ? "No fault was noticed." : "Nothing has happened since the scheduler started.");
  section.append(none, list);
}

export function update() {
  show();
  if (!model.report && model.incidents.length && model.snapshot.now - model.incidents[0].at < GROWS_S) costs();
}

async function costs() {
  const answer = await fetch("incidents").catch(() => null); // the header says so if it is not connected
  if (!answer?.ok) return;
  takeCosts(await answer.json());
  show();
}

function show() {
  const incidents = model.incidents.slice(0, model.report ? MAX_REPORTED : MAX_CARDS);
  none.hidden = incidents.length > 0;
  const signature = JSON.stringify(incidents.map(({ age, ...fields }) => fields));
  if (list.dataset.signature !== signature) {
    list.dataset.signature = signature;
    replace(list, ...incidents.map(card));
  }
  incidents.forEach((incident, place) => setText(list.children[place].querySelector(".age"), whenOf(incident)));
}

function whenOf({ at }) {
  if (!model.report) return ago(model.snapshot.now - at);
  return at < model.report.from ? "before the beginning" : `${seconds(at - model.report.from)} after the beginning`;
}

function card(incident) {
  const cost = COSTS.filter(([field]) => incident[field]).map(([field, words]) => h("li", {}, words(incident[field])));
  const { key } = incident;
  return h("article", { class: isFault(incident) ? "card bad" : "card" },
    h("h3", {}, `${wordsOf(incident.kind)}: `, incident.what),
    h("p", { class: "muted" }, `${clock(dateOf(incident.at))}, `, h("span", { class: "age" }, "")),
    h("p", { class: "cause" }, incident.cause),
    ...(cost.length ? [h("ul", {}, ...cost)] : []),
    ...(!cost.length && incident.kind === "worker lost" ? [h("p", {}, "Nothing that is needed was lost.")] : []),
    ...(key ? [h("p", {}, incident.lost ? "The story of one of them: " : "Its story: ", taskLink(key))] : []));
}

