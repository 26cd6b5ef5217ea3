"""What is shown to people: tables in notebooks, progress bars."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from html import escape
from typing import Any

#: Characters of a plain progress bar.
WIDTH = 40


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
        self._total, self._label = total, label
        self._stream = sys.stderr if stream is None else stream
        self._shows = bool(getattr(self._stream, "isatty", lambda: False)())
        self._tqdm = _tqdm(total, label, stream)

    def show(self, done: int) -> None:
        """``done`` things have ended."""
        if self._tqdm is not None:
            self._tqdm.update(done - self._tqdm.n)
        elif self._shows:
            filled = WIDTH * done // max(1, self._total)
            bar = "#" * filled + "." * (WIDTH - filled)
            self._stream.write(f"\r{self._label}[{bar}] {done}/{self._total}")
            self._stream.flush()

    def end(self) -> None:
        """Nothing more will be shown."""
        if self._tqdm is not None:
            self._tqdm.close()
        elif self._shows:
            self._stream.write("\n")
            self._stream.flush()


def _tqdm(total: int, label: str, stream: Any) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    notebook = any(base.__name__ == "tqdm_notebook" for base in tqdm.__mro__)
    # None: hidden unless the stream is a terminal, which that of a notebook never is.
    return tqdm(total=total, desc=label.strip() or None, file=stream, disable=False if notebook else None, unit="task")
