// Spans on a line for each slot of a worker.

// Seconds by which two runs on one slot may seem to overlap: an end is noticed when the message about it arrives.  A worker with as
// many lanes as slots gets another one only for more than that: a task that waits for its own tasks lends them its slot.
const SLACK_S = 0.002, MOST_SLACK_S = 0.25;

export const startOf = (span) => span[7];

// Give the spans of each worker to lanes: each to the first lane that is free.  `slots` is a Map by name.  Returns [[worker, [[span, …] a lane, …]], …].
export function lanesOf(spans, workers, slots) {
  const byWorker = new Map(workers.map((name) => [name, []]));
  for (const span of spans) byWorker.get(span[2])?.push(span);
  return [...byWorker].map(([name, own]) => {
    const lanes = [], ends = [];
    for (const span of own.sort((a, b) => startOf(a) - startOf(b))) {
      const start = startOf(span), slack = Math.min(SLACK_S, (span[0] - start) / 2);
      for (let slot = 0; slot < span[8]; slot += 1) {
        let lane = ends.findIndex((end) => end <= start + slack);
        if (lane < 0 && lanes.length >= (slots.get(name) || 1)) lane = lateLane(ends, start);
        if (lane < 0) lane = ends.length;
        (lanes[lane] ||= []).push(span);
        ends[lane] = span[0];
      }
    }
    return [name, lanes.length ? lanes : [[]]];
  });
}

// The lane that is free soonest, if that is soon enough; else -1.
function lateLane(ends, start) {
  const soonest = Math.min(...ends);
  return soonest <= start + MOST_SLACK_S ? ends.indexOf(soonest) : -1;
}

// A hue for a function, the same on every page: no red, orange or yellow, which mean trouble.
export function hueOf(name) {
  if (!hues.has(name)) {
    let hash = 0;
    for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
    hues.set(name, 90 + ((hash * 47) % 210));
  }
  return hues.get(name);
}

const hues = new Map();
