"""What is shown to people: tables in notebooks, progress bars."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

#: Characters of a plain progress bar, and of the numbers behind it.
WIDTH, ROOM = 40, 24


def printable(text: str) -> str:
    """Return a text that a terminal shows and does not obey: control characters, escapes among them, become visible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def html_of(title: str, rows: Mapping[str, Any], links: Mapping[str, str] | None = None) -> str:
    """Return a small table: a title, then rows whose values are not empty, then links."""
    cells = [(name, escape(str(value))) for name, value in rows.items() if value not in ("", None)]
    cells += [
        (name, f'<a href="{escape(link)}" target="_blank" rel="noopener">{escape(link)}</a>')
        for name, link in (links or {}).items()
        if link
    ]
    lines = "".join(f'<tr><th style="text-align:left">{escape(name)}</th><td>{text}</td></tr>' for name, text in cells)
    return f"<table><caption><b>{escape(title)}</b></caption>{lines}</table>"


class Bar:
    """A progress bar in a terminal or a notebook: that of tqdm if it is installed, otherwise a plain one for terminals.

    It shows nothing if the stream is neither.

    Args:
        total: How many things there are.
        label: Text in front of the bar.
        stream: Where to show it; None: standard error, or the notebook.
    """

    def __init__(self, total: int, label: str = "", stream: Any = None) -> None:
        self._bars = Bars([(label, total)], stream)

    def show(self, done: int) -> None:
        """``done`` things have ended."""
        self._bars.show([(done, 0)])

    def end(self) -> None:
        """Nothing more will be shown."""
        self._bars.end()


class Bars:
    """Several progress bars, one below the other, as :class:`Bar`.

    Args:
        rows: For each bar the text in front of it, and how many things there are.
        stream: Where to show them; None: standard error, or the notebook.
    """

    def __init__(self, rows: Sequence[tuple[str, int]], stream: Any = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shows = bool(getattr(self._stream, "isatty", lambda: False)())
        self._rows = [(printable(label), total) for label, total in rows]
        self._tqdms = _tqdms(self._rows, stream)
        self._drawn = ""

    def show(self, counts: Sequence[tuple[int, int]]) -> None:
        """For each bar, how many things have ended, and how many of those have failed."""
        if self._tqdms is not None:
            for bar, (done, failed) in zip(self._tqdms, counts, strict=True):
                if failed:
                    bar.set_postfix_str(f"{failed} failed", refresh=False)
                bar.update(done - bar.n)
        elif self._shows:
            self._draw(counts)

    def _draw(self, counts: Sequence[tuple[int, int]]) -> None:
        """Draw over what was drawn before, which is possible as long as no line wraps."""
        columns = shutil.get_terminal_size().columns - 1
        labels = max((len(label) for label, _ in self._rows), default=0)
        width = max(5, min(WIDTH, columns - labels - ROOM))
        lines = [
            _plain(label.ljust(labels), total, done, failed, width)[:columns]
            for (label, total), (done, failed) in zip(self._rows, counts, strict=True)
        ]
        text = "\x1b[K\n".join(lines)
        if text != self._drawn:
            up = f"\x1b[{len(lines) - 1}A" if self._drawn and len(lines) > 1 else ""
            self._stream.write(f"{up}\r{text}")
            self._stream.flush()
            self._drawn = text

    def end(self) -> None:
        """Nothing more will be shown."""
        if self._tqdms is not None:
            for bar in self._tqdms:
                bar.close()
        elif self._drawn:
            self._stream.write("\n")
            self._stream.flush()


def _plain(label: str, total: int, done: int, failed: int, width: int) -> str:
    filled = width * done // max(1, total)
    bar = "#" * filled + "." * (width - filled)
    return f"{label}[{bar}] {done}/{total}" + (f", {failed} failed" if failed else "")


def _tqdms(rows: Sequence[tuple[str, int]], stream: Any) -> list[Any] | None:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    notebook = any(base.__name__ == "tqdm_notebook" for base in tqdm.__mro__)
    # None: hidden unless the stream is a terminal, which that of a notebook never is.
    disable = False if notebook else None
    most = max((len(label.strip()) for label, _ in rows), default=0)
    return [
        tqdm(
            total=total,
            desc=label.strip().ljust(most) or None,
            file=stream,
            disable=disable,
            unit="task",
            position=place,
            leave=True,
        )
        for place, (label, total) in enumerate(rows)
    ]
