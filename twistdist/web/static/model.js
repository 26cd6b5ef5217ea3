// What the page knows: the last snapshot, and what earlier ones told.

// Spans, transfers, incidents and rates of the live page; a report has bounds of its own.
const MAX_SPANS = 10000, MAX_TRANSFERS = 5000, MAX_INCIDENTS = 500, MAX_RATES = 120;

// Seconds between the last snapshot and the answer to a question, at most.
const SAME_S = 3;

export const model = {
  snapshot: null, // the last one
  spans: [], // [end, microseconds, worker, function, count, kind, key, start, slots], in the order of their ends
  transfers: [], // [end, microseconds, worker, holder, count, bytes, key], in the order of their ends
  incidents: [], // newest first
  slots: new Map(), // of workers, also of those that are gone
  rates: [], // tasks done per second, one for each snapshot
  restartedAt: null, // a Date, once the scheduler was restarted while this page was open
  ahead: 0, // seconds from the scheduler's clock to the browser's
  report: null, // what a report has in it besides; null on the live page
};

const identity = (incident) => `${incident.at} ${incident.kind} ${incident.what}`;

// Take what the scheduler sent.  `all`: it is everything that it remembers.
export function take(snapshot, all) {
  const before = model.snapshot;
  const restarted = before !== null && before.epoch !== snapshot.epoch;
  if (restarted) model.restartedAt = new Date();
  if (all || restarted) {
    model.spans = [];
    model.transfers = [];
    model.incidents = [];
  }
  if (!before || restarted) model.rates = [];
  else if (snapshot.now > before.now) {
    const rate = (snapshot.counters.done - before.counters.done) / (snapshot.now - before.now);
    model.rates = [...model.rates, Math.max(0, rate)].slice(-MAX_RATES);
  }
  model.snapshot = snapshot;
  model.ahead = model.report ? 0 : Date.now() / 1000 - snapshot.now;
  for (const [name, worker] of Object.entries(snapshot.workers)) model.slots.set(name, worker.slots);
  model.spans = latest(model.spans.concat(snapshot.spans.map(placed)), MAX_SPANS);
  model.transfers = latest(model.transfers.concat(snapshot.transfers), MAX_TRANSFERS);
  const known = new Map(model.incidents.map((incident) => [identity(incident), incident]));
  for (const incident of snapshot.incidents) known.set(identity(incident), incident);
  model.incidents = latest([...known.values()].sort((a, b) => a.at - b.at), MAX_INCIDENTS).reverse();
}

const latest = (all, most) => (model.report ? all : all.slice(-most));

// A span with its start, and how many slots it was on: the microseconds of several runs are their sum.
function placed(span) {
  const [end, us, worker, , runs] = span;
  const slots = Math.max(1, Math.min(runs, model.slots.get(worker) || 1));
  return [...span, end - us / 1e6 / slots, slots];
}

// What recovery from the known incidents has cost by now; `told` have ages instead of times.
export function takeCosts(told) {
  for (const { age, kind, what, ...costs } of told) {
    const near = (incident) => Math.abs(model.snapshot.now - age - incident.at) < SAME_S;
    const known = model.incidents.find((incident) => incident.kind === kind && incident.what === what && near(incident));
    if (known) Object.assign(known, costs);
  }
}

// A time of the scheduler's clock as a Date.
export const dateOf = (at) => new Date((at + model.ahead) * 1000);

// What the scheduler answers to GET; an Error with its words if it refuses.
export async function ask(path, value, name = "name") {
  if (model.report) return model.report.ask(path, value);
  const answer = await fetch(`${path}?${name}=${encodeURIComponent(value)}`);
  const found = await answer.json();
  if (!answer.ok) throw new Error(answer.status === 404 ? "not known" : found.error);
  return found;
}
