"""Calls from any thread, carried out in the reactor's thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any


class Orders:
    """A queue of calls.

    ``wake(function)`` has ``function`` called soon in the reactor's thread, where it calls :meth:`carry_out`.  ``add`` and
    ``release`` may be called from any thread and by the garbage collector: they take no lock.
    """

    def __init__(self, wake: Callable[[Callable[[], None]], Any], function: Callable[[], None]) -> None:
        self._wake, self._function = wake, function
        self._orders: deque[tuple[Callable[..., Any], tuple[Any, ...]] | int] = deque()
        self._woken = False

    def add(self, action: Callable[..., Any], *args: Any) -> None:
        """Have ``action(*args)`` called, after all earlier orders."""
        self._order((action, args))

    def release(self, cid: int) -> None:
        """Have a future released; consecutive releases are carried out together."""
        self._order(cid)

    def _order(self, order: tuple[Callable[..., Any], tuple[Any, ...]] | int) -> None:
        self._orders.append(order)
        if not self._woken:
            self._woken = True
            self._wake(self._function)

    def carry_out(self, release: Callable[[list[int]], None]) -> None:
        """Carry out all orders, in order; ``release`` is called with each run of consecutively released futures."""
        self._woken = False
        orders = self._orders
        released: list[int] = []
        while orders:
            order = orders.popleft()
            if isinstance(order, int):
                released.append(order)
                continue
            if released:
                release(released)
                released = []
            action, args = order
            action(*args)
        if released:
            release(released)
