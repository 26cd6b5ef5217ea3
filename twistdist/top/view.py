"""How ``twistdist top`` looks: a frame of at most so many lines, made of rich's texts and tables.

Names come from users and may hold escape sequences: nothing reaches rich, or the terminal, that ``printable`` has not seen.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from twistdist.display import printable
from twistdist.top.model import GOOD, Model

STATES = (("waiting", "yellow"), ("ready", "yellow"), ("assigned", "cyan"), ("awaited", "magenta"), ("done", "green"),
          ("failed", "red"), ("idle", "dim"))  # fmt: skip

#: Characters of any name or text: what no terminal shows need not be laid out.
MAX_TEXT = 500

#: Below this width, columns that one can do without are left out.
NARROW, NARROWEST = 100, 64

#: The width of tables that have nothing to fill more with.
WIDEST = {"function": 110, "group": 110}

#: The heights of a column of the chart, lowest first, and the parts of a bar; in ASCII if the terminal's encoding requires it.
BLOCKS, BAR, PLAIN_BAR = "▁▂▃▄▅▆▇█", ("█", "░"), ("#", ".")


def frame(model: Model, address: str, now: float, width: int, height: int, trouble: str = "", plain: bool = False) -> Group:
    """Return what to show.

    Args:
        model: What is known; it has a snapshot.
        address: The scheduler's address.
        now: The time by our clock.
        width: Columns of the terminal.
        height: Its lines; no more are used.
        trouble: Why the snapshot may be old; "" if it is not.
        plain: Only ASCII for bars.
    """
    snapshot = model.snapshot
    parts: list[RenderableType] = [_title(model, address, now, trouble)]
    if trouble:
        parts.append(_text(trouble, "bold red"))
    if model.restarted is not None:
        parts.append(
            _text(f"the scheduler was restarted {_span(now - model.restarted)} ago: its counters began again", "yellow")
        )
    attention = model.attention(now)
    room = max(1, min(4, height // 6))
    parts += [_text(f"! {text}", "yellow") for text in attention[:room]]
    if len(attention) > room:
        parts.append(_text(f"! and {len(attention) - room} more", "yellow"))
    parts += [_tasks(snapshot), _throughput(model, width, plain), _journal(snapshot["journal"]), _sessions(snapshot)]
    workers = sorted(snapshot["workers"].items(), key=lambda item: (item[1]["state"] in GOOD, item[0]))
    tables = [
        ("function", snapshot["functions"]),
        ("group", snapshot["groups"]),
        ("worker", workers),
        ("incident", list(model.incidents)),
    ]
    shown = share(height - len(parts), [len(rows) for _, rows in tables])
    for (what, rows), lines in zip(tables, shown, strict=True):
        if lines:
            parts.append(_table(what, rows[:lines], len(rows) - lines, width, now, plain))
    return Group(*parts)


def share(lines: int, wanted: Sequence[int]) -> list[int]:
    """Return how many rows of each table fit into ``lines``, in fair shares.  A table takes a line for its head."""
    shown = [0] * len(wanted)
    places = [place for place, count in enumerate(wanted) if count]
    lines = max(0, lines)
    while lines > 0 and places:
        for place in list(places):
            cost = 2 if not shown[place] else 1
            if lines < cost:
                places.remove(place)
                continue
            shown[place] += 1
            lines -= cost
            if shown[place] == wanted[place]:
                places.remove(place)
    return shown


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text[:MAX_TEXT]), style=style, no_wrap=True, overflow="ellipsis")


def _title(model: Model, address: str, now: float, trouble: str) -> Text:
    state = "NOT CONNECTED" if trouble else "connected"
    title = _text("twistdist ", "bold")
    title.append(state, "bold red" if trouble else "not bold green")
    title.append(f"  {printable(address)}", "not bold")
    title.append(f"  {time.strftime('%H:%M:%S', time.localtime(now))}", "not bold")
    title.append(f"  epoch {model.snapshot['epoch']}", "not bold dim")
    return title


def _tasks(snapshot: dict[str, Any]) -> Text:
    line = _text("tasks      ", "bold")
    states = snapshot["tasks"]
    parts = [(f"{states[state]:,} {state}", style) for state, style in STATES if states.get(state)]
    for place, (text, style) in enumerate(parts or [("none", "dim")]):
        line.append(", " if place else "", "default")
        line.append(text, f"not bold {style}")
    return line


def _throughput(model: Model, width: int, plain: bool) -> Text:
    counters, rates = model.snapshot["counters"], list(model.rates)
    line = _text("throughput ", "bold")
    speed = f"{rates[-1]:,.0f} a second" if rates else "not measured yet"
    rest = f"; {counters['done']:,} done, {counters['failed']:,} failed, {counters['replays']:,} replayed in all"
    line.append(speed + rest, "not bold")
    room = width - line.cell_len - 2
    if rates and not plain and room >= 8:
        most = max(max(rates), 1.0)
        chart = "".join(BLOCKS[round(rate / most * (len(BLOCKS) - 1))] for rate in rates[-room:])
        line.append(f"  {chart}", "not bold cyan")
    return line


def _journal(journal: dict[str, Any]) -> Text:
    line = _text("journal    ", "bold")
    if journal["state"] == "none":
        line.append("none: a scheduler that is restarted has forgotten its tasks", "not bold dim")
    elif journal["state"] == "failing":
        line.append(f"FAILING: {printable(str(journal.get('error', ''))[:MAX_TEXT])}", "not bold red")
    else:
        told = f"{_bytes(journal.get('bytes', 0))}, last write {1e3 * journal.get('write', 0.0):.1f} ms"
        lag = f", {journal['waiting']} messages wait" if journal.get("waiting") else ""
        line.append(told + lag, "not bold")
    return line


def _sessions(snapshot: dict[str, Any]) -> Text:
    sessions = snapshot["sessions"]
    line = _text("sessions   ", "bold")
    durable = ", ".join(f"{name} keeps {kept}" for name, kept in sorted(sessions["durable"].items())[:20])
    told = f"{max(0, sessions['connected'] - 1)} connected besides this one, {sessions['away']} away"
    line.append(printable(told + (f"; {durable}" if durable else "")), "not bold")
    return line


def _table(what: str, rows: Sequence[Any], more: int, width: int, now: float, plain: bool) -> Table:
    width = min(width, WIDEST.get(what, width))
    table = Table(box=None, pad_edge=False, width=width, header_style="bold reverse", padding=(0, 2, 0, 0))
    title = f"{what}s" + (f" (and {more} more)" if more else "")
    {"worker": _workers, "incident": _incidents}.get(what, _progress)(table, title, rows, width, now, plain)
    return table


def _columns(table: Table, title: str, right: Iterable[str], first: int = 2) -> None:
    table.add_column(title, ratio=first, no_wrap=True, overflow="ellipsis")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True, overflow="ellipsis")


def _progress(table: Table, title: str, rows: Sequence[Any], width: int, now: float, plain: bool) -> None:
    bar = 0 if width < NARROWEST else 10 if width < NARROW else 24
    names = ["done", "failed"]
    if width >= NARROWEST:
        names += ["again", "time"]
    _columns(table, title, [*([""] if bar else []), *names])
    for name, pending, done, failed, again, us in rows:
        of = done + failed + pending
        cells = [_text(name)]
        if bar:
            full, empty = PLAIN_BAR if plain else BAR
            filled = bar * (done + failed) // max(1, of)
            cells.append(Text(full * filled + empty * (bar - filled), "red" if failed else "green"))
        cells += [Text(f"{done:,}/{of:,}"), Text(f"{failed:,}", "red" if failed else "")]
        if width >= NARROWEST:
            cells += [Text(f"{again:,}", "yellow" if again else ""), Text(_span(us / 1e6))]
        table.add_row(*cells)


def _workers(table: Table, title: str, rows: Sequence[Any], width: int, now: float, plain: bool) -> None:
    names = ["state", "slots", "memory", "heard"]
    if width >= NARROWEST:
        names.insert(2, "queued")
    _columns(table, title, names)
    if width >= NARROW:
        table.add_column("trouble", ratio=2, no_wrap=True, overflow="ellipsis")
    for name, worker in rows:
        good = worker["state"] in GOOD
        cells = [
            _text(name),
            _text(worker["state"], "green" if good else "bold red"),
            Text(f"{worker['running']}/{worker['slots']}"),
            Text(_bytes(worker["memory"])),
            Text(f"{worker['last_seen']:.1f} s", "" if good else "red"),
        ]
        if width >= NARROWEST:
            cells.insert(3, Text(f"{worker['queued']:,}"))
        if width >= NARROW:
            cells.append(_text(worker["troubles"][-1] if worker["troubles"] else "", "yellow"))
        table.add_row(*cells)


def _incidents(table: Table, title: str, rows: Sequence[Any], width: int, now: float, plain: bool) -> None:
    table.add_column(title, no_wrap=True)
    table.add_column("what", ratio=2, no_wrap=True, overflow="ellipsis")
    if width >= NARROWEST:
        table.add_column("cause", ratio=3, no_wrap=True, overflow="ellipsis")
    for at, incident in rows:
        cells = [Text(f"{_span(max(1, round(now - at)))} ago"), _text(f"{incident['kind']}: {incident['what']}")]
        if width >= NARROWEST:
            cells.append(_text(incident["cause"]))
        table.add_row(*cells)


def _span(seconds: float) -> str:
    """A duration in few characters."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{1e3 * seconds:.2g} ms" if seconds < 0.1 else f"{1e3 * seconds:.0f} ms"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
