"""Progress bars."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import wait

from twistdist.blocking.futures import Future
from twistdist.config import as_text
from twistdist.net.tally import Tally


def progress(futures: Iterable[Future], label: str = "") -> None:
    """Show progress bars and return when all futures have ended.

    There is a bar for all of them, one for each function if they are calls of several, and one for each group if there are
    several.  The bars are those of tqdm, if it is installed (``twistdist[progress]``), in a terminal or a notebook; otherwise
    plain ones in a terminal.  Elsewhere nothing is shown.

    Args:
        futures: An iterable of futures.
        label: Text in front of the bar for all.
    """
    tally = Tally(futures, as_text(label, "label"))
    while tally.pending:
        for future in wait(list(tally.pending), 0.1).done:
            tally.ended(future)
        tally.show()
    tally.end()
