// Which view is shown: the address says so, as in #now and #task=KEY.

import { byId } from "./dom.js";
import { model } from "./model.js";

const all = {};
let first = "", shown = "", afterwards = () => {};

// Mount each of {name: view}; a view has mount(section), update(), and perhaps show(rest of the address).  `rendered` is called before
// the shown view is updated.
export function mountViews(views, rendered) {
  Object.assign(all, views);
  [first] = Object.keys(views);
  afterwards = rendered;
  for (const [name, view] of Object.entries(views)) view.mount(byId(`view-${name}`));
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId(`title-${shown}`).focus();
  });
  addEventListener("hashchange", () => route(true));
  route(false);
}

export function render() {
  if (!model.snapshot) return;
  afterwards(byId(`title-${shown}`).textContent);
  all[shown].update();
}

function route(moveFocus) {
  const [, name, rest] = /^#?([a-z]*)=?(.*)$/s.exec(location.hash) || [];
  shown = Object.hasOwn(all, name) ? name : first;
  for (const view of Object.keys(all)) byId(`view-${view}`).hidden = view !== shown;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${shown}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  all[shown].show?.(decoded(rest));
  render();
  if (moveFocus) {
    byId(`title-${shown}`).focus();
    scrollTo(0, 0);
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text || "");
  } catch {
    return text; // typed by hand, with a lone %
  }
}
