"""Submitted tasks, collected into few messages, and the functions that the scheduler has been sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from twistdist.core.client.records import FunctionRef, Record
from twistdist.core.session import ENTRY_WEIGHT, FRAME_MESSAGES, Dialer
from twistdist.wire import messages as m

#: Bytes of arguments, and tasks, after which a batch of submits is closed and the next one begun.
BATCH_BYTES = 1 << 20
BATCH_TASKS = FRAME_MESSAGES

#: Functions that a session keeps on the scheduler, and their bytes: beyond these, the least recently used are dropped.
MAX_FUNCTIONS = 500
FUNCTION_BYTES = 32 << 20


@attrs.define(eq=False)
class Submits:
    """Consecutive tasks with the same function and options are sent as one message."""

    dialer: Dialer
    _functions: dict[bytes, tuple[int, int]] = attrs.field(factory=dict)  # number and bytes, most recently used last
    _function_bytes: int = 0
    _last_function: int = 0
    _batch: m.Submit | None = None
    _batch_bytes: int = 0

    def post(self, message: Any, weight: int = 0) -> None:
        """Post a message after everything that was submitted so far."""
        self.close_batch()
        self.dialer.session.post(message, weight)

    def post_about(self, cids: Sequence[int], message: Callable[[list[int]], Any]) -> None:
        """Post ``message(cids)``, for any number of futures as several messages."""
        for at in range(0, len(cids), FRAME_MESSAGES):
            some = list(cids[at : at + FRAME_MESSAGES])
            self.post(message(some), len(some) * ENTRY_WEIGHT)

    def add(
        self,
        record: Record,
        function: FunctionRef,
        args: bytes,
        inputs: Sequence[int],
        key: str | None,
        options: m.Options | None,
        recipe: bytes,
        replace: bool,
    ) -> None:
        """Add one task."""
        fn = self._number_of(function)
        batch = self._batch
        if (
            batch is None
            or batch.fn != fn
            or batch.options != options
            or record.cid != batch.first + len(batch.args)
            or (batch.keys is None) != (key is None)
            or batch.replace != replace
            or self._batch_bytes > BATCH_BYTES
            or len(batch.args) >= BATCH_TASKS
        ):
            self.close_batch()
            keys: tuple[Any, Any] = (None, None) if key is None else ([], [])
            batch = self._batch = m.Submit(record.cid, fn, [], None, keys[0], options, keys[1], replace)
        batch.args.append(args)
        self._batch_bytes += len(args)
        if inputs and batch.inputs is None:
            batch.inputs = [[] for _ in batch.args[:-1]]
        if batch.inputs is not None:
            batch.inputs.append(list(inputs))
        if key is not None and batch.keys is not None and batch.recipes is not None:
            batch.keys.append(key)
            batch.recipes.append(recipe)

    def close_batch(self) -> None:
        """Post the submits collected so far; called before anything else is posted and before frames are taken."""
        batch = self._batch
        if batch is not None:
            self._batch = None
            self.dialer.session.post(batch, max(self._batch_bytes, len(batch.args) * ENTRY_WEIGHT))
            self._batch_bytes = 0

    def start_over(self) -> None:
        """The scheduler knows nothing: it has no functions, and what was collected is lost."""
        self._batch, self._batch_bytes = None, 0
        self._functions.clear()
        self._function_bytes = 0

    def _number_of(self, function: FunctionRef) -> int:
        known = self._functions.pop(function.digest, None)
        if known is None:
            self._last_function += 1
            known = (self._last_function, len(function.blob))
            self.post(m.Function(known[0], function.name, function.digest, function.blob), len(function.blob))
            self._function_bytes += len(function.blob)
        self._functions[function.digest] = known
        while len(self._functions) > MAX_FUNCTIONS or (self._function_bytes > FUNCTION_BYTES and len(self._functions) > 1):
            number, size = self._functions.pop(next(iter(self._functions)))
            self._function_bytes -= size
            self.post(m.DropFunctions([number]))
        return known[0]
