"""Adapting a cluster: asks the scheduler what there is to do, makes a plan, and carries it out, again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twistdist.clusters.policy import Demand, Plan, Policy, State, plan
from twistdist.config import as_seconds, as_whole_number

#: Seconds that a worker has to finish its tasks and to hand over its values; one that has not stays.
HANDING_OVER_S = 60.0

#: Seconds between two attempts after an error: at most, since the pause doubles with each.
LONGEST_PAUSE_S = 30.0


def check_policy(
    minimum: Any, maximum: Any, most: int, target_s: Any, interval_s: Any, patience_s: Any, **known: Any
) -> Policy:
    """Return the policy that the arguments of ``adapt`` describe; ``known`` are the fields that the cluster knows.

    Raises ``TypeError`` or ``ValueError``, whose message names the argument.
    """
    least = as_whole_number(minimum, "minimum", 0, most)
    greatest = as_whole_number(maximum, "maximum", 1, most)
    if least > greatest:
        raise ValueError(f"minimum must not be greater than maximum, got {least} and {greatest}")
    return Policy(
        least,
        greatest,
        as_seconds(target_s, "target_s", 0.1, 86_400),
        as_seconds(interval_s, "interval_s", 0.1, 3_600),
        None if patience_s is None else as_seconds(patience_s, "patience_s", 0, 86_400),
        **known,
    )


class Adapting:
    """Keeps the number of workers of one cluster as the policy wants it.

    Args:
        clock: What has Twisted's ``seconds`` and ``callLater``.
        policy: What the user wants.
        demand: Asks the scheduler; a function that returns a Deferred of a :class:`Demand`.
        grow: Starts so many more workers.  It need not wait until they have come.
        retire: Tells the scheduler which workers must leave, and that all others stay.
        present: The number of workers that run or were asked for, if the engine knows it.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Any,
        policy: Policy,
        demand: Callable[[], Deferred[Demand]],
        grow: Callable[[int], Any],
        retire: Callable[[Sequence[str]], Any],
        present: Callable[[], int] | None = None,
    ) -> None:
        self.policy = policy
        self._clock, self._demand, self._grow, self._retire, self._present = clock, demand, grow, retire, present
        self._state = State()
        self._call: Any = None
        self._round: Deferred[None] | None = None
        self._errors = 0
        self._running = False

    def start(self) -> None:
        """Begin, with a first plan at once."""
        if not self._running:
            self._running = True
            self._call = self._clock.callLater(0.0, self._begin)

    def change(self, policy: Policy) -> None:
        """Continue with another policy; what is known about the cluster is kept."""
        self.policy = policy
        if self._call is not None:
            self._call.reset(0.0)

    def stop(self) -> None:
        """End.  Workers that have not left yet stay if :meth:`keep_all` is called too."""
        self._running = False
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._round is not None:
            self._round.cancel()

    def keep_all(self) -> Deferred[None]:
        """Tell the scheduler that workers which have not left yet need not.  The Deferred never fails."""
        if not self._state.retiring:
            return maybeDeferred(lambda: None)
        return maybeDeferred(self._retire, ()).addCallbacks(lambda _: None, self._not_kept)

    def _not_kept(self, failure: Failure) -> None:
        self._log.warn("workers may leave that were told to stay: {error}", error=failure.getErrorMessage())

    def _begin(self) -> None:
        self._call = None
        begun = self._clock.seconds()
        self._round = Deferred.fromCoroutine(self._once())
        self._round.addCallbacks(self._succeeded, self._failed).addBoth(self._next, begun)

    async def _once(self) -> None:
        demand = await self._demand()
        now, coming = self._clock.seconds(), None
        if self._present is not None:
            coming = max(0, self._present() - sum(worker.state != "leaving" for worker in demand.workers))
        made = plan(demand, self._state, self.policy, now, coming)
        if made.why:
            self._log.info("{change}", change=_in_words(made, len(demand.workers)))
        before = self._state
        # Until the scheduler has answered, these and those of before may be leaving.
        maybe = tuple({**dict(before.retiring), **dict(made.state.retiring)}.items())
        self._state = attrs.evolve(made.state, retiring=maybe, asked=made.state.asked[: -made.start or None])
        if made.retire or before.retiring:
            await maybeDeferred(self._retire, made.retire)
            self._state = attrs.evolve(self._state, retiring=made.state.retiring)
        if made.start:
            await maybeDeferred(self._grow, made.start)
            self._state = attrs.evolve(self._state, asked=made.state.asked)

    def _succeeded(self, _: None) -> None:
        self._errors = 0

    def _failed(self, failure: Failure) -> None:
        if not self._running:  # it was cancelled
            return
        self._errors += 1
        self._log.warn(
            "the number of workers could not be adapted, which is tried again: {error}", error=failure.getErrorMessage()
        )

    def _next(self, _: None, begun: float) -> None:
        self._round = None
        if self._running:
            pause = self.policy.interval_s * 2 ** min(self._errors, 10)
            pause = min(pause, max(LONGEST_PAUSE_S, self.policy.interval_s))
            self._call = self._clock.callLater(max(0.0, begun + pause - self._clock.seconds()), self._begin)


class Scheduler:
    """Asks a scheduler on behalf of a cluster, over a session of its own that is opened when it is needed.

    ``connect`` returns a Deferred of a :class:`twistdist.Client`.
    """

    def __init__(self, connect: Callable[[], Deferred[Any]]) -> None:
        self._connect = connect
        self._client: Any = None

    async def _ask(self, what: str, *args: Any) -> Any:
        if self._client is None or self._client.why_closed():
            self._client = None
            self._client = await self._connect()
        return await self._client._query(what, *args)

    def demand(self) -> Deferred[Demand]:
        """What there is to do, and who is there."""
        return Deferred.fromCoroutine(self._ask("demand")).addCallback(Demand.of)

    def retire(self, names: Sequence[str]) -> Deferred[Any]:
        """These workers leave when nothing is lost by it; all others stay."""
        return Deferred.fromCoroutine(self._ask("dismiss", HANDING_OVER_S, *names))

    def close(self) -> Deferred[None]:
        """End the session."""
        client, self._client = self._client, None
        return maybeDeferred(client.close if client is not None else lambda: None)


def _in_words(made: Plan, here: int) -> str:
    what = [f"{made.start} more"] if made.start else []
    what += [f"{', '.join(made.retire)} may leave"] if made.retire else []
    return f"{made.wanted} workers are wanted, {here} are there: {' and '.join(what)}; {made.why}"
