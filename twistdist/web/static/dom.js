// Making and changing elements.  Whatever comes from a task is only ever set as text or as an attribute's value.

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children); // strings become text nodes
  return element;
}

export const byId = (id) => document.getElementById(id);

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Replace the children of a container without losing the focus: what has it is found again by its data-focus.
export function replace(container, ...children) {
  const focused = container.contains(document.activeElement) && document.activeElement.dataset.focus;
  container.replaceChildren(...children);
  if (!focused) return;
  for (const element of container.querySelectorAll("[data-focus]")) if (element.dataset.focus === focused) element.focus();
}

// A table whose rows are kept from one update to the next, so that neither focus nor selection is lost.
//
// columns: [{head, number, text(row), make(row), look(row)}]; `make` gives an element once, when the row is new, `text` what is shown
// now, and `look` a class.  Roles are given, because the rows are laid out as blocks on a phone.
export function table(caption, columns, empty) {
  const body = h("tbody", { role: "rowgroup" });
  const head = columns.map((column) =>
    h("th", { scope: "col", role: "columnheader", class: column.number ? "number" : undefined }, column.head));
  const shown = h("table", { role: "table" },
    h("caption", {}, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...head)),
    body);
  const nothing = h("p", { class: "muted" }, empty);
  const element = h("div", { class: "table" }, shown, nothing);
  const rows = new Map();

  function newRow(row) {
    const cells = columns.map((column, place) => h(place ? "td" : "th", {
      role: place ? "cell" : "rowheader",
      scope: place ? undefined : "row",
      "data-head": column.head,
      class: column.number ? "number" : undefined,
    }, ...(column.make ? [column.make(row)] : [])));
    return { line: h("tr", { role: "row" }, ...cells), cells };
  }

  function update(keyed) { // [[key, row], …] in the order to be shown
    shown.hidden = !keyed.length;
    nothing.hidden = !shown.hidden;
    const wanted = new Set(keyed.map(([key]) => key));
    for (const [key, { line }] of rows) if (!wanted.has(key)) { line.remove(); rows.delete(key); }
    keyed.forEach(([key, row], place) => {
      if (!rows.has(key)) rows.set(key, newRow(row));
      const { line, cells } = rows.get(key);
      if (body.children[place] !== line) body.insertBefore(line, body.children[place] || null);
      columns.forEach((column, at) => {
        if (column.update) column.update(cells[at].firstChild, row);
        else if (!column.make) setText(cells[at], column.text(row));
        if (column.look) cells[at].className = `${column.number ? "number " : ""}${column.look(row)}`;
      });
    });
  }
  update([]);
  return { element, update };
}

// Which tasks can be shown; of a report, not all.
export const shows = { task: () => true };

export const taskLink = (key, text = key) => !shows.task(key) ? h("span", {}, text || "(empty)") :
  h("a", { href: `#task=${encodeURIComponent(key)}`, "data-focus": `task ${key}` }, text || "(empty)");

// ---- numbers in words --------------------------------------------------------------------------

export const count = (number) => Math.round(number).toLocaleString("en");

export const many = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) { number /= 1024; unit += 1; }
  return `${unit && number < 10 ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

export function seconds(number) {
  if (number < 0.001) return `${Math.round(number * 1e6)} µs`;
  if (number < 1) return `${(number * 1e3).toPrecision(3)} ms`;
  if (number < 60) return `${number.toFixed(number < 10 ? 2 : 1)} s`;
  if (number < 3600) return `${Math.floor(number / 60)} min ${Math.floor(number % 60)} s`;
  if (number < 86400) return `${Math.floor(number / 3600)} h ${Math.floor((number % 3600) / 60)} min`;
  return `${Math.floor(number / 86400)} d ${Math.floor((number % 86400) / 3600)} h`;
}

export const ago = (number) => (number < 1 ? "just now" : `${seconds(Math.floor(number))} ago`).replace(/\.\d+ s/, " s");

// With its zone, so that a picture of the page can be placed.
export const moment = (date) => date.toLocaleString("en-GB",
  { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short" });

export const clock = (date, digits = 0) =>
  date.toLocaleTimeString("en-GB", digits ? { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: digits } : {});
