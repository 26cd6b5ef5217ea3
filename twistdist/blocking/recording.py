"""The context manager that ``client.recording()`` of the blocking API gives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from twistdist.blocking.reactor_thread import ReactorThread
from twistdist.web.recording import Recording, warn_unwritten


@contextlib.contextmanager
def recorded(thread: ReactorThread, recording: Recording) -> Iterator[None]:
    """Record what the cluster does while the block runs."""
    thread.call(recording.start)
    try:
        yield
    except BaseException as error:
        reason = error
        try:
            thread.call(lambda: recording.stop(reason))
        except OSError as trouble:
            warn_unwritten(trouble)
        raise
    thread.call(recording.stop)
