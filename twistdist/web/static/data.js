// Data: which worker and which host has what, and what would be lost with it.

import { bytes, count, h, many, seconds, table, taskLink } from "./dom.js";
import { ask, model } from "./model.js";
import { byName, notShown, workerRows } from "./now.js";

// Rows of the table of hosts.
const MAX_HOSTS = 200;

// Keys that are shown at once.
const MAX_FIRST = 10;

let sum, workers, hosts, more;

const alone = (number) => (number === null ? "too many to count" : count(number));

export function mount(section) {
  sum = h("p", {});
  workers = table("Values by worker", [
    { head: "worker", text: (worker) => worker.name },
    { head: "copies", number: true, text: (worker) => count(worker.keys) },
    { head: "bytes", number: true, text: (worker) => bytes(worker.memory) },
    { head: "only here", number: true, text: (worker) => alone(worker.single), look: (worker) => (worker.single ? "warn" : "") },
    { head: "what if", make: (worker) => whatIf(worker.name) },
  ], "No worker is connected.");
  hosts = table("Values by host", [
    { head: "host", text: (host) => host.name },
    { head: "workers", text: (host) => shortList(host.workers) },
    { head: "copies", number: true, text: (host) => count(host.copies) },
    { head: "bytes", number: true, text: (host) => bytes(host.size) },
    { head: "values", number: true, text: (host) => alone(host.values) },
    { head: "only here", number: true, text: (host) => alone(host.single), look: (host) => (host.single ? "warn" : "") },
    { head: "what if", make: (host) => whatIf(host.name, host.id) },
  ], "No worker is connected.");
  more = h("p", { class: "muted" });
  section.append(sum, hosts.element, workers.element, more, h("p", { class: "muted" },
    "A value that only one worker has is computed again if that worker dies and the value is still needed, unless another worker of its " +
    "host takes over its files. One that only one host has is computed again if that machine is lost, or sent again by a client that scattered it: it is not lost for good. Small results are with the scheduler and can't be lost."));
}

export function update() {
  const { snapshot } = model, all = Object.values(snapshot.workers), rows = workerRows(snapshot, () => 0);
  const total = (field) => all.reduce((sum, worker) => sum + (worker[field] || 0), 0);
  const uncounted = all.some((worker) => worker.single === null);
  const places = snapshot.hosts.map(([id, name, workers, copies, size, values, single]) => ({ id, name, workers, copies, size, values, single }));
  const single = places.reduce((sum, host) => sum + (host.single || 0), 0);
  const values = places.reduce((sum, host) => sum + (host.values || 0), 0), copies = many(total("keys"), "copy", "copies");
  // With two hosts, what is not on one host only is on both; with more it can't be known on how many.
  const told = uncounted || places.length > 2 ? `${copies} of values` : `${many((values + single * (places.length - 1)) / (places.length || 1), "value")}, ${copies}`;
  sum.textContent = `${told} on ${many(all.length, "worker")} of ${many(places.length, "host")}, ` +
    `${bytes(total("memory"))}; ` + (uncounted ? "they are too many to say which have only one." :
      `${count(total("single"))} ${total("single") === 1 ? "has" : "have"} only one copy, ${count(single)} ${single === 1 ? "is" : "are"} on one host only.`);
  hosts.update(places.sort((a, b) => byName([a.name], [b.name])).slice(0, MAX_HOSTS).map((host) => [host.id, host]));
  workers.update(rows);
  more.textContent = notShown(snapshot, rows);
}

const listed = (keys) => h("ul", { class: "keys" }, ...keys.map((key) => h("li", {}, taskLink(key))));

function shortList(names) {
  names = names.map((name) => [name]).sort(byName).map(([name]) => name);
  return names.length > 6 ? `${names.slice(0, 5).join(", ")} and ${count(names.length - 5)} more` : names.join(", ");
}

// A button that asks what would be lost if a worker, or a host, died now, and the answer below it.
export function whatIf(name, host) {
  const answer = h("div", { class: "what-if", tabindex: "-1", hidden: true });
  async function asking() {
    try {
      const [single, needed, again, us, keys] = await (host ? ask("what-if", host, "host") : ask("what-if", name));
      answer.replaceChildren(
        h("p", {}, single === 0 ? `Nothing would be lost: no value is on ${name} alone.`
          : `${many(single, "value is", "values are")} on ${name} alone; ` +
            (needed === single ? `${needed === 1 ? "it is" : "all are"} needed.` : `${count(needed)} of them ${needed === 1 ? "is" : "are"} needed.`)),
        h("p", {}, again === 0 ? "No task would be run again."
          : `${many(again, "task")} would be run again, about ${seconds(us / 1e6)} of computing as far as known.`),
        ...(keys.length ? [listed(keys.slice(0, MAX_FIRST))] : []),
        ...(keys.length > MAX_FIRST ? [h("details", {}, h("summary", {}, `${count(again - MAX_FIRST)} more`), listed(keys.slice(MAX_FIRST)),
          ...(again > keys.length ? [h("p", { class: "muted" }, `… and ${count(again - keys.length)} more`)] : []))] : []));
    } catch (error) {
      answer.replaceChildren(h("p", { class: "bad" }, `${name}: ${error.message}`));
    }
    answer.hidden = false;
    answer.focus(); // so that it is read out
  }
  return h("div", {}, h("button", { type: "button", "data-focus": `what if ${name} ${host || ""}`, onclick: asking }, `What if ${name} died now?`), answer);
}
