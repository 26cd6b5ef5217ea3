"""What objects look like in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any


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
