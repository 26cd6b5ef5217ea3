"""Objects that belong to the process that made them."""

from __future__ import annotations

from typing import NoReturn


class BoundToProcess:
    """Base of clients and clusters: they own connections, threads and processes, which can't be sent elsewhere."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} can't be pickled, so it can't be used in a task's function or arguments; "
            "inside a task, call twistdist.blocking.current_client()"
        )
