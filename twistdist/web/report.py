"""A report: one HTML file with what the live page would show, which opens by itself, without a scheduler and without a network.

Its script is that of the live page.  The modules are put into one script, since browsers load none from a file beside the page,
and what they show is in the file as JSON.  The policy in the file lets that script run and no other, and reaches no host.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any, BinaryIO
from urllib.parse import quote

#: The module that shows a report.
ENTRY = "report"

_IMPORT = re.compile(r'^import \{ (.+) \} from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|const) (\w+))", re.MULTILINE)
_LEFT = re.compile(r"^\s*(?:import|export)\b|</script|<!--", re.MULTILINE | re.IGNORECASE)


# ---- the path ------------------------------------------------------------------------------------


def check_path(path: Any) -> str:
    """Return the absolute path of a report that is to be written, after trying that a file can be made in its folder.

    ``TypeError`` if it is not a path, ``ValueError`` if no file can have that name, ``OSError`` if it can't be written.
    """
    try:
        full = os.path.realpath(os.path.abspath(os.fsdecode(path)))
    except (TypeError, ValueError) as error:
        if isinstance(error, TypeError):
            raise TypeError(f"path must be a string or a path, got {type(path).__name__}") from None
        raise ValueError(f"path is not usable: {error}") from None
    if not os.fsdecode(path) or "\0" in full:
        raise ValueError("path must not be empty or have a null character in it")
    folder = os.path.dirname(full)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"the report {full} can't be written: there is no folder {folder}; create it first")
    try:
        kind = os.stat(full).st_mode
    except FileNotFoundError:
        kind = stat.S_IFREG
    except OSError as error:
        raise OSError(error.errno, f"the report {full} can't be written: {error.strerror}") from None
    if not stat.S_ISREG(kind):
        raise OSError(f"the report {full} can't be written: that is not a file; name another one")
    with _beside(full):
        pass
    return full


@contextlib.contextmanager
def _beside(path: str) -> Iterator[tuple[str, BinaryIO]]:
    """The path of a new file beside ``path``, and the file, open for writing.  It is removed at the end if it still exists."""
    other = os.path.join(os.path.dirname(path), f".report-{secrets.token_hex(8)}")
    try:
        descriptor = os.open(other, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OSError(error.errno, f"the report {path} can't be written: {error.strerror}") from None
    try:
        with open(descriptor, "wb") as stream:
            yield other, stream
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(other)


def write_report(path: str, data: dict[str, Any]) -> str:
    """Write a report, at once or not at all, and return its path.  ``OSError`` if it can't be written."""
    body = page_of(data)
    with _beside(path) as (other, stream):
        try:
            stream.write(body)
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(other, path)
        except OSError as error:
            raise OSError(error.errno, f"the report {path} can't be written: {error.strerror}") from None
    return path


# ---- the page ------------------------------------------------------------------------------------


def page_of(data: dict[str, Any]) -> bytes:
    """Return the page that shows ``data`` (docs/live-page.rst)."""
    style, script = _static("style.css"), bundle(ENTRY, lambda name: _static(f"{name}.js"))
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:"
    policy += "; base-uri 'none'; form-action 'none'"
    parts = {
        "policy": html.escape(policy),
        "icon": "data:image/svg+xml," + quote(_static("icon.svg")),
        "style": style,
        "data": embedded(data),
        "script": script,
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _static("report.html"))
    return page.encode()


def _static(name: str) -> str:
    return files("twistdist.web").joinpath("static", name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embedded(data: Any) -> str:
    """Return ``data`` as JSON that can stand in a page: nothing in it is markup, and all of it is ASCII."""
    try:
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(data), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(data: Any) -> Any:
    """The data with None for numbers that JSON does not have."""
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def bundle(entry: str, source: Callable[[str], str]) -> str:
    """Return one script that does what the module ``entry`` and those that it imports do.

    Each module becomes a function that is called once, after those that it imports.  ``ValueError`` for what is not understood:
    the modules of the page are written so that this suffices.
    """
    made: dict[str, tuple[str, list[str]]] = {}

    def add(name: str, within: tuple[str, ...]) -> None:
        if name in within:
            raise ValueError(f"modules import one another: {' -> '.join((*within, name))}")
        if name in made:
            return
        text = source(name)
        for names, other in _IMPORT.findall(text):
            add(other, (*within, name))
            unknown = {part.split(" as ")[0] for part in names.split(", ")} - set(made[other][1])
            if unknown:
                raise ValueError(f"{name}.js imports what {other}.js does not export: {', '.join(sorted(unknown))}")
        exports = [exported for _, exported in _EXPORT.findall(text)]
        body = _EXPORT.sub(r"\1", _IMPORT.sub(_imported, text))
        if left := _LEFT.search(body):
            raise ValueError(f"{name}.js has {left[0].strip()!r} where it is not understood")
        made[name] = (f"const module_{name} = (() => {{\n{body}return {{ {', '.join(exports)} }};\n}})();\n", exports)

    add(entry, ())
    return f'(() => {{\n"use strict";\n{"".join(text for text, _ in made.values())}}})();\n'


def _imported(found: re.Match[str]) -> str:
    return f"const {{ {found[1].replace(' as ', ': ')} }} = module_{found[2]};"
