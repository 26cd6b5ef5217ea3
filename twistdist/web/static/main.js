// The live page of a twistdist scheduler: the stream of snapshots.

import { byId, clock, h, moment, replace, setText } from "./dom.js";
import { dateOf, model, take } from "./model.js";
import * as now from "./now.js";
import * as timeline from "./timeline.js";
import * as incidents from "./incidents.js";
import * as task from "./task.js";
import * as data from "./data.js";
import { mountViews, render } from "./views.js";

// Milliseconds without a snapshot after which the connection counts as lost, and until the next try.
const SILENCE_MS = 8000, RETRY_MS = 2000;

// Milliseconds after which a tab that nobody looks at gives up its stream: a browser has only six connections for all tabs.
const HIDDEN_MS = 30000;

let stream = null, heardAt = 0, hiding = 0;

// ---- the stream ----------------------------------------------------------------------------------

function connect() {
  if (stream) stream.close();
  heardAt = performance.now();
  const opened = stream = new EventSource("live");
  stream.addEventListener("history", (event) => receive(event, true));
  stream.addEventListener("snapshot", (event) => receive(event, false));
  stream.addEventListener("error", () => {
    if (opened !== stream) return;
    if (opened.readyState === EventSource.CLOSED) refused(); // the browser does not try again by itself
    else tell("not connected, trying again", false);
  });
}

// The stream was answered with an error: find out what it says, and try again later.
async function refused() {
  const stop = new AbortController();
  let why = "not connected, trying again";
  try {
    const answer = await fetch("live", { signal: stop.signal });
    if (!answer.ok) why = `not connected, trying again: ${(await answer.text()).trim()}`;
  } catch (error) {
    console.info("the scheduler does not answer", error);
  }
  stop.abort();
  tell(why, false);
  setTimeout(() => { if (stream?.readyState === EventSource.CLOSED) connect(); }, RETRY_MS);
}

function receive(event, all) {
  heardAt = performance.now();
  take(JSON.parse(event.data), all);
  tell(`connected to ${location.host}`, true);
  setText(byId("asked"), moment(dateOf(model.snapshot.now)));
  render();
}

function tell(text, good) {
  setText(byId("connection"), text);
  byId("connection").className = good ? "good" : "bad";
  document.body.classList.toggle("stale", !good);
  if (!good) document.title = "not connected – twistdist";
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(sleep, HIDDEN_MS);
  else if (!stream) connect();
});

function sleep() {
  stream.close();
  stream = null;
  tell("paused while this tab is hidden", false);
}

setInterval(() => {
  if (stream && stream.readyState !== EventSource.CLOSED && performance.now() - heardAt > SILENCE_MS) {
    tell("not connected, trying again", false);
    connect();
  }
}, 1000);

// ---- what is shown -------------------------------------------------------------------------------

function head(title) {
  const { snapshot, restartedAt } = model;
  document.title = `${snapshot.health ? "no work is accepted – " : ""}${title} – twistdist`;
  const notices = [];
  if (restartedAt) {
    notices.push(h("p", { class: "notice warn" }, `The scheduler was restarted at ${clock(restartedAt)}; what this page shows began again. `,
      h("button", { type: "button", "data-focus": "seen", onclick: () => { model.restartedAt = null; render(); } }, "Seen")));
  }
  if (snapshot.health) notices.push(h("p", { class: "notice bad" }, `No work is accepted: ${snapshot.health}`));
  const signature = notices.map((notice) => notice.textContent).join();
  if (byId("notices").dataset.signature !== signature) {
    byId("notices").dataset.signature = signature;
    replace(byId("notices"), ...notices);
  }
  byId("incident-count").hidden = !model.incidents.length;
  setText(byId("incident-count"), String(model.incidents.length));
}

mountViews({ now, timeline, incidents, task, data }, head);
connect();
