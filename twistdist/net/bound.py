"""What belongs to the process that made it."""

from __future__ import annotations

from typing import NoReturn


class BoundToProcess:
    """Clients and clusters: connections, threads and processes, which do not travel."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} can't be pickled, and so not be used in a task's function or arguments; "
            "inside a task call twistdist.blocking.current_client()"
        )
