"""Draws calls of every public name, blocking and Deferred, with arguments of every kind, and looks what comes of them::

    python -m tests.fuzz.public_api --seed 7 --calls 20000

Each call has to return, or raise an ordinary exception, in time; the client that was called and one that has nothing to do with
it go on working, no process dies or complains, and nothing is left at the end.  Findings are printed, one a paragraph.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import functools
import inspect
import logging
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel, formatEvent, globalLogBeginner

import twistdist
import twistdist.client
from tests.fuzz import oddities
from tests.fuzz.oddities import Refusal
from twistdist import blocking
from twistdist.blocking.reactor_thread import get_reactor_thread
from twistdist.errors import TwistdistError

#: Seconds that a call is given, and thirty times as many until it counts as hanging.
CALL_S = 1.0
HANGS_S = 30 * CALL_S

#: Calls between two looks at whether everything else still works.
CHECK_EVERY = 50

#: What may come out of a call, beside what the odd objects raise themselves.
ORDINARY = (
    TypeError,
    ValueError,
    TwistdistError,
    TimeoutError,
    concurrent.futures.TimeoutError,
    concurrent.futures.CancelledError,
    CancelledError,
    Refusal,
)

#: What the standard library has for futures that are set by hand, and the contract for workers that are not there.
ALSO: dict[str, Any] = {
    "Future.set_result": concurrent.futures.InvalidStateError,
    "Future.set_exception": concurrent.futures.InvalidStateError,
    "Future.set_running_or_notify_cancel": (concurrent.futures.InvalidStateError, RuntimeError),
    "cluster.kill_worker": KeyError,
    "upload_file": OSError,
    "report": OSError,
    "recording": OSError,
}

#: What the tasks raise, beside exceptions of their own.
OF_TASKS = (StopIteration, StopAsyncIteration, MemoryError, RecursionError, KeyError, OSError)

#: Options of ``submit`` and ``map``.
TASK_OPTIONS = (
    "key",
    "pure",
    "retries",
    "crash_limit",
    "time_limit",
    "priority",
    "workers",
    "allow_other_workers",
    "resources",
    "replay",
    "replicas",
    "checkpoint",
    "replace",
    "group",
)


@attrs.define
class Report:
    calls: collections.Counter[str] = attrs.field(factory=collections.Counter)
    kinds: set[str] = attrs.field(factory=set)
    outcomes: collections.Counter[str] = attrs.field(factory=collections.Counter)
    findings: dict[str, str] = attrs.field(factory=dict)
    unworded: dict[str, str] = attrs.field(factory=dict)

    def found(self, what: str, detail: str) -> None:
        self.findings.setdefault(what, detail)


@attrs.frozen
class Call:
    """``function(*args, **kwargs)``, and how it reads."""

    name: str
    text: str
    run: Callable[[], Any]


class Fuzz:
    """One cluster, a client that is fuzzed in both APIs, and an innocent one."""

    def __init__(self, seed: int) -> None:
        self.rng, self.report = random.Random(seed), Report()
        self.values, self.tasks = oddities.odd_values(), oddities.tasks()
        self.cluster = blocking.LocalCluster(n_workers=2)
        self.innocent = blocking.Client(self.cluster)
        self.loop = get_reactor_thread()
        self.latest, self.drawn = "the start", list[str]()
        self.expected = self._processes()
        self.futures: list[Any] = []
        self.deferred_futures: list[Any] = []
        self.strange = self.innocent.submit(abs, -1)
        globalLogBeginner.beginLoggingTo([self._logged], redirectStandardIO=False)
        logging.disable()  # it tells of callbacks that fail
        threading.excepthook = self._thread_died
        self._connect()

    def _connect(self) -> None:
        self.client = blocking.Client(self.cluster)
        self.deferred = self.in_reactor(lambda: twistdist.connect(self.loop.reactor, self.cluster._service))
        self.durable = blocking.Client(self.cluster, session="fuzz")
        self.connection = self.innocent._session._dialing._connection
        self.blocking_calls, self.deferred_calls = self._blocking_calls(), self._deferred_calls()

    def in_reactor(self, function: Callable[[], Any], timeout: float = CALL_S) -> Any:
        return self.loop.call(function, timeout)

    def _processes(self) -> Any:
        return self.cluster.scheduler, self.cluster.workers

    # ---- what is seen beside the calls ----------------------------------------------------------

    def _logged(self, event: Any) -> None:
        """Errors that the client's own half writes to its log; a user's callback that fails is told of there."""
        failure = event.get("log_failure")
        if event["log_level"] >= LogLevel.error and "callback of a future" not in event.get("log_format", ""):
            text = failure.getTraceback() if failure is not None else formatEvent(event)
            self.report.found(f"logged: {text.strip().splitlines()[-1][:100]}", f"after {self.latest}\n{text[-3000:]}")

    def _thread_died(self, args: Any) -> None:
        text = "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
        self.report.found(f"a thread died: {args.exc_type.__name__}", f"after {self.latest}\n{text[-3000:]}")

    # ---- arguments ------------------------------------------------------------------------------

    def odd(self) -> Any:
        kind = self.rng.choice([*self.values, "future", "future", "futures"])
        self._note(kind)
        if kind == "future":
            return self.future()
        return self.shape() if kind == "futures" else self.values[kind]()

    def _note(self, kind: str) -> None:
        self.report.kinds.add(kind)
        self.drawn.append(kind)

    def future(self) -> Any:
        """One of any state, of this client, of another or of the other API."""
        others = [self.strange, self.client, concurrent.futures.Future(), *self.deferred_futures[-3:]]
        return self.rng.choice(self.futures[-20:] or others) if self.rng.random() < 0.85 else self.rng.choice(others)

    def shape(self) -> Any:
        """Futures in some nesting, now and then with something in it that is none."""
        rng = self.rng
        some = [self.future() for _ in range(rng.randrange(4))] + ([self.odd()] if rng.random() < 0.15 else [])
        kind = rng.choice(("list", "tuple", "set", "dict", "values", "nested", "generator", "deque", "array", "point", "cycle"))
        self._note(f"futures in {kind}")
        if kind == "dict":
            return dict(enumerate(some))
        if kind == "cycle":
            some.append(some)
        make: dict[str, Callable[[], Any]] = {
            "tuple": lambda: tuple(some),
            "values": lambda: dict(enumerate(some)).values(),
            "nested": lambda: [some, (some,)],
            "generator": lambda: (one for one in some),
            "deque": lambda: collections.deque(some),
            "array": lambda: oddities.objects(*some),
            "point": lambda: oddities.Point(some, some),
            "set": lambda: {one for one in some if isinstance(one, concurrent.futures.Future | twistdist.Future)},
        }
        return make.get(kind, lambda: some)()

    def function(self) -> Any:
        if self.rng.random() < 0.1:
            return self.odd()
        kind = self.rng.choice(list(self.tasks))
        self._note(kind)
        return self.tasks[kind]()

    def options(self, *names: str) -> dict[str, Any]:
        """Mostly none; else one or two that may be anything."""
        chosen = self.rng.sample(names, min(len(names), self.rng.choice((0, 0, 1, 1, 2))))
        return {name: self._option(name) for name in chosen}

    def _option(self, name: str) -> Any:
        self.drawn.append(f"{name}=")
        return self.odd()

    def bounded(self, *names: str) -> dict[str, Any]:
        """Options, and a ``timeout`` that ends what blocks."""
        timeout = self.odd() if self.rng.random() < 0.2 else CALL_S
        return {**self.options(*names), "timeout": timeout if self._is_short(timeout) else CALL_S}

    @staticmethod
    def _is_short(timeout: Any) -> bool:
        """Whether it bounds a call, or is refused; what is endless or long would bound nothing."""
        with contextlib.suppress(Exception):
            return timeout is not None and not float(timeout) > CALL_S
        return not isinstance(timeout, oddities.datetime.timedelta)

    def task_call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(function and arguments, options) for ``submit``."""
        options = {"crash_limit": 1, **self.options(*TASK_OPTIONS)}
        if self.rng.random() < 0.5:
            return (self.function(),), options
        return (oddities.swallow, *(self.odd() for _ in range(self.rng.randrange(3)))), {**options, **self.options("x", "y")}

    # ---- calls ----------------------------------------------------------------------------------

    def keep(self, found: Any, where: list[Any]) -> Any:
        for one in found if isinstance(found, list) else [found]:
            if isinstance(one, blocking.Future | twistdist.Future):
                where.append(one)
        del where[:-60]
        return found

    def _shared_calls(
        self, client: Any, mine: list[Any], bounded: Callable[..., dict[str, Any]]
    ) -> dict[str, Callable[[], Any]]:
        """The methods that both clients have."""
        odd, shape, rng = self.odd, self.shape, self.rng

        def submit() -> Any:
            args, options = self.task_call()
            return lambda: self.keep(client.submit(*args, **options), mine)

        def map_() -> Any:
            args, options = self.task_call()
            function, rest = args[0], args[1:] or (odd(),)
            rest = (*rest, range(3))  # or there would be millions of tasks
            return lambda: self.keep(client.map(function, *rest, **options), mine)

        def call(name: str, args: Callable[[], tuple[Any, ...]], *options: str) -> Callable[[], Any]:
            def drawn() -> Any:
                given, named = args(), bounded(*options)
                return lambda: self.keep(getattr(client, name)(*given, **named), mine)

            return drawn

        def named() -> Any:
            return rng.choice(("set-1", "set-2")) if rng.random() < 0.5 else odd()

        def several() -> Any:
            return shape() if rng.random() < 0.7 else odd()

        return {
            "submit": submit,
            "map": map_,
            "gather": call("gather", lambda: (several(),), "errors"),
            "scatter": call("scatter", lambda: (odd(),), "replicas", "broadcast", "hash", "workers", "resupply"),
            "replicate": call("replicate", lambda: (several(), rng.choice((1, 2, odd())))),
            "rebalance": call("rebalance", lambda: (several(),)),
            "cancel": call("cancel", lambda: (several(),)),
            "retry": call("retry", lambda: (several(),)),
            "upload_file": call("upload_file", lambda: (odd(),)),
            "register_plugin": call("register_plugin", lambda: (odd(), odd())),
            "unregister_plugin": call("unregister_plugin", lambda: (odd(),)),
            "logs": call("logs", lambda: (odd(), odd())),
            "run": call("run", lambda: (odd(),), "workers"),
            "lineage": call("lineage", lambda: (several(),)),
            "retire_workers": call("retire_workers", lambda: (self.no_worker(),)),
            "workers": call("workers", tuple),
            "wait_for_workers": call("wait_for_workers", lambda: (odd(),)),
            "who_has": call("who_has", lambda: (several(),)),
            "has_what": call("has_what", lambda: (odd(),)),
            "why": call("why", lambda: (rng.choice((odd(), self.future())),)),
            "incidents": call("incidents", lambda: (odd(),)),
            "report": call("report", lambda: (self.path(),)),
            "recording": call("recording", lambda: (self.path(),)),
            "status": call("status", tuple),
            "clear": call("clear", tuple),
            "take_up": call("take_up", lambda: (odd(),)),
            "futures": call("futures", tuple),
            "end_session": call("end_session", tuple),
            "list_datasets": call("list_datasets", tuple),
            "publish_dataset": call("publish_dataset", lambda: (named(), several())),
            "get_dataset": call("get_dataset", lambda: (named(),)),
            "unpublish_dataset": call("unpublish_dataset", lambda: (named(),)),
        }

    def path(self) -> Any:
        """Anything but a name that a file could have: each would be written."""
        value = self.odd()
        return f"/nowhere/{value!r}" if isinstance(value, (str, bytes, os.PathLike)) else value

    def no_worker(self) -> Any:
        """Anything but what holds the name of a worker that is to stay."""
        value = self.odd()
        with contextlib.suppress(Exception):
            return "nobody" if "w0" in value or "w1" in value else value
        return value

    def _blocking_calls(self) -> dict[str, Callable[[], Any]]:
        odd, shape, future, rng = self.odd, self.shape, self.future, self.rng

        def of_future(name: str, *kinds: Callable[[], Any], waits: bool = False) -> Callable[[], Any]:
            def drawn() -> Any:
                one, args, named = rng.choice(self.futures or [self.strange]), [kind() for kind in kinds], {}
                if waits:
                    named = self.bounded()
                return lambda: getattr(one, name)(*args, **named)

            return drawn

        def executor() -> Any:
            options, (args, _) = {"crash_limit": 1, **self.options(*TASK_OPTIONS)}, self.task_call()

            def run() -> None:
                with self.client.executor(**options) as pool:
                    self.keep(pool.submit(*args), self.futures)
                    list(pool.map(*args[:1], args[1:] or (1,), timeout=CALL_S))

            return run

        def waits() -> Any:
            futures, named = self.real_futures(), self.bounded("return_when")
            return lambda: blocking.wait(futures, **named)

        def completed() -> Any:
            futures, timeout = self.real_futures(), self.bounded()["timeout"]
            return lambda: list(blocking.as_completed(futures, timeout))

        def open_client() -> Any:
            address = rng.choice((self.cluster.address, odd()))
            named = self.options("session", "secret", "tls", "tracing", "n_workers", "bogus")
            return lambda: blocking.Client(address if address is not None else "h:1", **{"timeout": 0.2, **named}).close()

        def timed_client() -> Any:
            timeout = self.bounded()["timeout"]
            return lambda: blocking.Client("tcp:127.0.0.1:1", timeout=timeout)

        def new_cluster() -> Any:
            named = self.options(
                "n_workers",
                "slots",
                "secret",
                "memory_limit",
                "executor_memory_limit",
                "checkpoint_store",
                "journal",
                "suspect_after",
                "dead_after",
                "bogus",
            )
            return lambda: twistdist.LocalCluster(self.loop.reactor, **named)

        def loose(function: Any) -> Callable[[], Any]:
            def drawn() -> Any:
                given = {name: odd() for name in inspect.signature(function).parameters if name in ("keys", "data")}
                address = self.cluster.address if rng.random() < 0.8 else str(odd())
                return lambda: function(address, timeout=CALL_S, **given)

            return drawn

        def closed() -> Any:
            client = blocking.Client(self.cluster)
            mine = client.submit(abs, -1)
            client.close()
            name = rng.choice(
                ("submit", "gather", "scatter", "workers", "status", "cancel", "result", "close", "take_up", "map")
            )
            if name == "result":
                return lambda: mine.result(CALL_S)
            return lambda: getattr(client, name)(
                *{"submit": (abs, -1), "map": (abs, [1])}.get(name, ([mine],))[
                    : 0 if name in ("workers", "status", "close") else 2
                ]
            )

        def killed() -> Any:
            name = odd()
            return lambda: self.cluster.kill_worker(name if not isinstance(name, str) else f"no {name}")

        return {
            **self._shared_calls(self.client, self.futures, self.bounded),
            "Future.result": of_future("result", waits=True),
            "Future.exception": of_future("exception", waits=True),
            "Future.traceback": of_future("traceback", waits=True),
            "Future.cancel": of_future("cancel"),
            "Future.retry": of_future("retry"),
            "Future.release": of_future("release"),
            "Future.done": of_future("done"),
            "Future.running": of_future("running"),
            "Future.add_done_callback": of_future("add_done_callback", rng_callback(self)),
            "Future.cancelled": of_future("cancelled"),
            "Future.set_result": of_future("set_result", odd),
            "Future.__repr__": of_future("__repr__"),
            "Future.set_exception": of_future("set_exception", odd),
            "Future.__reduce__": of_future("__reduce__"),
            "Future.set_running_or_notify_cancel": of_future("set_running_or_notify_cancel"),
            "executor": executor,
            "wait": waits,
            "as_completed": completed,
            "Client": open_client,
            "Client(timeout)": timed_client,
            "LocalCluster": new_cluster,
            "closed client": closed,
            "client.gather": loose(twistdist.client.gather),
            "client.who_has": loose(twistdist.client.who_has),
            "client.clear": loose(twistdist.client.clear),
            "current_client": lambda: blocking.current_client,
            "current_attempt": lambda: twistdist.current_attempt,
            "progress": lambda: functools.partial(blocking.progress, self.ended_futures(), *rng.choice(((), (odd(),)))),
            "cluster.scale": lambda: functools.partial(self.cluster.scale, rng.choice((-1, None, "2", 2.5, 10**6, [2], True))),
            "cluster.adapt": lambda: functools.partial(self.cluster.adapt, rng.choice((-1, "2", 2.5, 10**6, [2], True)), 1),
            "cluster.kill_worker": killed,
            "ended": lambda: functools.partial(self.client.gather, [future()], timeout=CALL_S),
            "durable.submit": lambda: functools.partial(
                lambda key: self.keep(self.durable.submit(abs, -1, key=key), self.futures), odd()
            ),
            "durable.futures": lambda: functools.partial(self.durable.futures, CALL_S),
            "shapes": lambda: functools.partial(self.client.gather, shape(), "skip", CALL_S),
        }

    def real_futures(self) -> list[Any]:
        """For what belongs to the standard library, which does not look at what it is given."""
        return self.rng.sample(self.futures, min(3, len(self.futures)))

    def ended_futures(self) -> list[Any]:
        return [one for one in self.real_futures() if one.done()]

    def _deferred_calls(self) -> dict[str, Callable[[], Any]]:
        """Those that are made in the reactor's thread and give Deferreds, which are cancelled now and then."""
        client, mine, rng, odd = self.deferred, self.deferred_futures, self.rng, self.odd

        def in_thread(drawn: Callable[[], Any]) -> Callable[[], Any]:
            def draw() -> Any:
                run, cancels = drawn(), rng.random() < 0.1

                def here() -> Any:
                    result = run()
                    if isinstance(result, Deferred):
                        limit = self.loop.reactor.callLater(0 if cancels else CALL_S, result.cancel)
                        result.addBoth(lambda value: (limit.active() and limit.cancel(), value)[1])
                    return result

                return lambda: self.in_reactor(here, HANGS_S * 2)

            return draw

        def no_timeout(*names: str) -> dict[str, Any]:
            return self.options(*names)

        def of_future(name: str, *kinds: Callable[[], Any]) -> Callable[[], Any]:
            def drawn() -> Any:
                one, args = rng.choice(mine or [client.submit(abs, -1)]), [kind() for kind in kinds]
                return lambda: getattr(one, name)(*args)

            return drawn

        def futures() -> Any:
            return rng.choice((odd(), [*mine[-2:]], [*mine[-2:], odd()]))

        def connect() -> Any:
            address = rng.choice((self.cluster.address, odd()))
            named = self.options("session", "secret", "tls", "tracing", "timeout", "n_workers", "bogus")
            found = twistdist.connect
            address = "h:1" if address is None else address
            return lambda: found(self.loop.reactor, address, **{"timeout": 0.2, **named}).addCallback(lambda one: one.close())

        def wait() -> Any:
            given, named = futures(), self.options("return_when")
            return lambda: twistdist.wait(given, **named)

        def progress() -> Any:
            given, label = futures(), odd()
            return lambda: twistdist.progress(given, label)

        def completed() -> Any:
            given = futures()
            return lambda: twistdist.as_completed(given).next()

        calls = {
            **self._shared_calls(client, mine, no_timeout),
            "Future.result": of_future("result"),
            "Future.exception": of_future("exception"),
            "Future.traceback": of_future("traceback"),
            "Future.cancel": of_future("cancel"),
            "Future.retry": of_future("retry"),
            "Future.release": of_future("release"),
            "Future.add_done_callback": of_future("add_done_callback", rng_callback(self)),
            "Future.__repr__": of_future("__repr__"),
            "connect": connect,
            "wait": wait,
            "as_completed": completed,
            "progress": progress,
        }
        return {name: in_thread(drawn) for name, drawn in calls.items()}

    # ---- one call -------------------------------------------------------------------------------

    def draw(self) -> Call:
        blocks = self.rng.random() < 0.6
        calls = self.blocking_calls if blocks else self.deferred_calls
        name = self.rng.choice([*calls, "submit", "submit", "map", "scatter"])
        self.drawn = []
        run = calls[name]()
        return Call(f"{'blocking' if blocks else 'deferred'} {name}", ", ".join(self.drawn), run)

    def one(self) -> bool:
        """Make a call; False when it hangs."""
        call = self.draw()
        self.latest = f"{call.name}({call.text})"
        self.report.calls[call.name] += 1
        outcome: list[BaseException | None] = []
        began = time.monotonic()
        thread = threading.Thread(target=self._make, args=(call, outcome), daemon=True)
        thread.start()
        thread.join(HANGS_S)
        if not outcome:
            where = sys._current_frames().get(thread.ident or 0)
            self.report.found(f"hangs: {call.name}", self.latest + "\n" + "".join(traceback.format_stack(where)))
            return False
        took = time.monotonic() - began
        if took > 2 * CALL_S:
            self.report.unworded.setdefault(f"slow: {call.name}", f"{took:.1f} s: {self.latest}")
        self._judge(call, outcome[0])
        return True

    def _make(self, call: Call, outcome: list[BaseException | None]) -> None:
        try:
            call.run()
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    def _judge(self, call: Call, error: BaseException | None) -> None:
        self.report.outcomes[type(error).__name__] += 1
        if error is None:
            return
        frames = traceback.extract_tb(error.__traceback__)
        last = frames[-1]
        text = f"{self.latest}\n{''.join(traceback.format_exception(type(error), error, error.__traceback__))[-2500:]}"
        of_a_task = hasattr(error, "__twistdist__") if type(error) not in (oddities.Mute,) else True
        if of_a_task:
            if not isinstance(error, (*ORDINARY, *OF_TASKS)) and type(error).__module__ != oddities.__name__:
                self.report.found(f"a task fails: {type(error).__name__}", text)
            return
        if "oddities" in last.filename:
            return
        what = f"{call.name}: {type(error).__name__} at {last.filename.rpartition('/')[2]}:{last.lineno} {last.name}"
        if not isinstance(error, (ORDINARY, ALSO.get(call.name.partition(" ")[2], Refusal))):
            self.report.found(what, text)
        elif not (last.line or "").startswith("raise") and "twistdist" in last.filename:
            self.report.unworded.setdefault(what.partition(": ")[2], text)

    # ---- everything else ------------------------------------------------------------------------

    def check(self) -> None:
        """Ordinary work by all clients, with the right answers; nobody has died or lost its connection."""
        for name, client in (("the same", self.client), ("an innocent", self.innocent)):
            try:
                self._work(client)
            except BaseException as error:
                self.report.found(
                    f"{name} client does not work: {type(error).__name__}",
                    f"after {self.latest}\n{traceback.format_exc()[-3000:]}",
                )
        future = self.in_reactor(lambda: self.deferred.map(abs, [-3]))[0]
        if self.in_reactor(future.result, HANGS_S) != 3:
            self.report.found("a wrong answer by Deferred", self.latest)
        if self._processes() != self.expected:
            self.report.found("a process died", f"after {self.latest}: {self.expected} then, {self._processes()} now")
            self.expected = self._processes()
        if self.innocent._session._dialing._connection is not self.connection:
            self.report.found("the innocent client was reconnected", f"after {self.latest}")
            self.connection = self.innocent._session._dialing._connection

    @staticmethod
    def _work(client: Any) -> None:
        seen: concurrent.futures.Future[int] = concurrent.futures.Future()
        data = client.scatter(b"x" * 10_000, timeout=HANGS_S)
        future = client.submit(len, data)
        future.add_done_callback(lambda one: seen.set_result(one.result()))
        assert future.result(HANGS_S) == 10_000 == seen.result(HANGS_S)
        assert client.gather(client.map(pow, [2, 3], [2, 2]), timeout=HANGS_S) == [4, 9]

    def end(self) -> None:
        """Everything is let go; the scheduler knows nothing more of it."""
        self.durable.end_session(timeout=HANGS_S)
        self.client.close()
        self.in_reactor(self.deferred.close, HANGS_S)
        del self.futures[:], self.deferred_futures[:], self.strange
        for name in self.innocent.list_datasets():
            self.innocent.unpublish_dataset(name)
        self.innocent.clear()
        end = time.monotonic() + HANGS_S
        while (left := self._left()) and time.monotonic() < end:
            self.innocent.wait_for_workers(2, HANGS_S)
        if left:
            self.report.found("left at the end", str(left))
        self.innocent.close()
        self.cluster.close()

    def _left(self) -> dict[str, Any]:
        status = self.innocent.status(HANGS_S)
        sessions = status["sessions"]
        found = {"tasks": status["tasks"], "datasets": status["datasets"], "sessions": sessions}
        return {} if not status["tasks"] and sessions["connected"] == 1 and not sessions["away"] else found


def rng_callback(fuzz: Fuzz) -> Callable[[], Any]:
    return lambda: fuzz.rng.choice((fuzz.odd(), fuzz.function(), oddities.raises_itself, oddities.exits))


def run(seed: int, calls: int, seconds: float = float("inf")) -> Report:
    """Make ``calls`` calls, or as many as there is time for."""
    fuzz, end = Fuzz(seed), time.monotonic() + seconds
    for number in range(1, calls + 1):
        if not fuzz.one() or time.monotonic() > end:
            break
        if number % CHECK_EVERY == 0:
            fuzz.check()
    fuzz.check()
    fuzz.end()
    return fuzz.report


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--notes", action="store_true", help="also print errors that nobody has worded")
    given = parser.parse_args()
    sys.setswitchinterval(0.005)
    report = run(given.seed, given.calls, given.seconds)
    for what, text in report.findings.items():
        print(f"FINDING {what}\n{text}\n")
    for what, text in report.unworded.items() if given.notes else ():
        print(f"NOTE {what}\n{text}\n")
    print(
        f"{sum(report.calls.values())} calls of {len(report.calls)} names with {len(report.kinds)} kinds of objects, "
        f"{len(report.findings)} findings, {len(report.unworded)} notes; outcomes: {dict(report.outcomes.most_common(12))}"
    )
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
