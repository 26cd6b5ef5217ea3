"""Progress bars."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import wait
from typing import Any

from twistdist.blocking.futures import Future
from twistdist.config import as_text
from twistdist.display import Bar


def progress(futures: Iterable[Future], label: str = "") -> None:
    """Show a progress bar and return when all futures have ended.

    The bar is that of tqdm, if it is installed (``twistdist[progress]``), in a terminal or a notebook; otherwise a
    plain one in a terminal.  Elsewhere nothing is shown.

    Args:
        futures: An iterable of futures.
        label: Text in front of the bar.
    """
    members = list(futures)
    bar = Bar(len(members), as_text(label, "label"))
    pending: set[Any] = set(members)
    while pending:
        pending = wait(pending, 0.1).not_done
        bar.show(len(members) - len(pending))
    bar.end()
