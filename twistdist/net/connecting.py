"""Attempts to connect to the scheduler and to authenticate there.  Several may be under way at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.python.failure import Failure

from twistdist.config import parse_addresses
from twistdist.net.connection import ClientFactory, Connection, Owner
from twistdist.net.tls import dial, is_endpoint

if TYPE_CHECKING:
    from twistdist.net.encryption import Tls

#: Seconds that one attempt to connect may take: enough for a lost packet or two.
CONNECT_S = 3.0

#: Seconds after which another attempt is begun beside one that is under way, and the most attempts at the same time.  Where
#: one packet in five is lost, one attempt in ten takes longer than six seconds, since the kernel doubles its pauses.
STAGGER_S, MAX_UNDER_WAY = 1.0, 3


@attrs.define(eq=False)
class _Attempt:
    """``at`` is the index of its address."""

    at: int
    connecting: Deferred[Any] | None = None
    connection: Connection | None = None


class Connecting:
    """Makes connections for ``owner``, at one of several addresses, and remembers what went wrong at each.

    Addresses are tried in turn until one works, which is then the first to be tried again.  ``on_failure(error)`` is called
    when an attempt ends before its connection is opened.
    """

    def __init__(
        self, reactor: Any, address: Any, secret: bytes, tls: Tls | None, owner: Owner, on_failure: Callable[[Exception], None]
    ) -> None:
        self._reactor, self._tls, self._on_failure = reactor, tls, on_failure
        self._factory = ClientFactory(reactor, owner, secret)
        self._addresses: list[Any] = [address] if is_endpoint(address) else parse_addresses(address)
        self.addresses = len(self._addresses)
        self._at = 0  # the index of the address to try next, or of the one that worked
        self._errors: dict[Any, Exception] = {}
        self._last_error: Exception | None = None
        self._attempts: list[_Attempt] = []
        self._began = 0.0

    def __str__(self) -> str:
        return ",".join(map(str, self._addresses))

    @property
    def address(self) -> Any:
        """The address that worked, or the one to be tried next."""
        return self._addresses[self._at]

    @property
    def under_way(self) -> int:
        """How many attempts have neither been opened nor failed."""
        return len(self._attempts)

    def why(self) -> str:
        """Return what went wrong last, for each address if there are several; "" if nothing did."""
        if self.addresses > 1:
            return "; ".join(f"{address}: {error}" for address, error in self._errors.items())
        return str(self._last_error or "")

    def begin(self) -> None:
        """Begin an attempt; with others under way, at the next address."""
        self._began = self._reactor.seconds()
        attempt = _Attempt((self._at + len(self._attempts)) % self.addresses)
        self._attempts.append(attempt)
        connecting = attempt.connecting = dial(self._reactor, self._addresses[attempt.at], self._tls, self._factory)
        limit = self._reactor.callLater(CONNECT_S, connecting.cancel)

        def no_limit(result: Any) -> Any:
            if limit.active():
                limit.cancel()
            return result

        connecting.addBoth(no_limit).addCallbacks(
            self._connected, self._not_connected, callbackArgs=(attempt,), errbackArgs=(attempt,)
        )

    def begin_beside(self) -> bool:
        """Begin another attempt, unless there are enough or the last has only just begun.  Return True if one was begun."""
        due = not self._attempts or self._reactor.seconds() >= self._began + STAGGER_S
        if due and len(self._attempts) < MAX_UNDER_WAY:
            self.begin()
            return True
        return False

    def stop(self) -> None:
        """End all attempts."""
        attempts, self._attempts = self._attempts, []
        for attempt in attempts:
            if attempt.connecting is not None:
                attempt.connecting.cancel()
            elif attempt.connection is not None:
                attempt.connection.transport.abortConnection()

    def _connected(self, connection: Connection, attempt: _Attempt) -> None:
        attempt.connecting, attempt.connection = None, connection
        if attempt not in self._attempts:
            connection.transport.abortConnection()

    def _not_connected(self, failure: Failure, attempt: _Attempt) -> None:
        if attempt not in self._attempts:
            return
        error: Any = failure.value
        if failure.check(CancelledError, ConnectingCancelledError):
            error = self._errors.get(self._addresses[attempt.at]) or TimeoutError(f"no answer within {CONNECT_S:g} s")
        self._failed(attempt, error)

    def _failed(self, attempt: _Attempt, error: Exception) -> None:
        self._attempts.remove(attempt)
        self._note(attempt.at, error)
        self._move_on(attempt.at)
        self._on_failure(error)

    def _note(self, at: int, error: Exception) -> None:
        self._last_error = self._errors[self._addresses[at]] = error

    def _move_on(self, at: int) -> None:
        if self._at == at:
            self._at = (at + 1) % self.addresses

    # ---- what becomes of connections, as the owner sees it -------------------------------------

    def opened(self, connection: Connection) -> None:
        """The connection was opened: its address works."""
        for attempt in self._attempts:
            if attempt.connection is connection:
                self._attempts.remove(attempt)
                self._at = attempt.at
                return

    def closed(self, connection: Connection, error: Exception) -> None:
        """The connection was closed before it was opened."""
        for attempt in self._attempts:
            if attempt.connection is connection:
                self._failed(attempt, error)
                return

    def broke(self, error: Exception, worked: bool) -> None:
        """The connection that was in use broke.  Unless it ``worked``, another address is tried next."""
        self._note(self._at, error)
        if not worked:
            self._move_on(self._at)
