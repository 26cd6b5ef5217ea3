"""``/output``: the last lines that one task has written, asked of the workers that ran it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from twistdist.web.answers import answer

#: Lines of each worker.
MAX_LINES = 100

#: Seconds that workers have to answer, and between two looks whether they have.
PATIENCE_S, LOOK_S = 2.0, 0.02

#: Requests at a time: the scheduler keeps the answers to few questions that go to workers.
MAX_WAITING = 8


class Asked(Protocol):
    """A scheduler."""

    def ask(self, what: str, *args: Any) -> Any:
        """The answer to a question of clients."""

    def order(self, what: str, *args: Any) -> Any:
        """The answer to a question that workers are asked too."""


class Output(Resource):
    """Answers ``{"lines": lines by worker, "silent": workers that did not answer}``; lines are None if nobody can be asked.

    ``clock`` is a reactor.
    """

    isLeaf = True
    _log = Logger()

    def __init__(self, clock: Any, asked: Asked, name_of: Callable[[Request], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._clock, self._asked, self._name_of = clock, asked, name_of
        self._waiting = 0

    def render_GET(self, request: Request) -> Any:
        if self._waiting >= MAX_WAITING:
            return _json(request, 503, {"error": "many tasks' output is being asked for at the moment; try again"})
        number = self._asked.order("output", self._name_of(request), MAX_LINES)
        if number is None:
            return _json(request, 200, {"lines": None, "silent": []})
        self._waiting += 1
        waiting = Deferred.fromCoroutine(self._answers(number))
        request.notifyFinish().addErrback(lambda _: waiting.cancel())
        waiting.addBoth(self._ended)
        waiting.addCallbacks(lambda found: _finish(request, 200, found), self._failed, errbackArgs=(request,))
        return NOT_DONE_YET

    async def _answers(self, number: int) -> dict[str, Any]:
        deadline = self._clock.seconds() + PATIENCE_S
        while True:
            over = self._clock.seconds() >= deadline
            silent, lines, _ = self._asked.ask("broadcast", number, over)
            if over or not silent:
                if not over:
                    self._asked.ask("broadcast", number, True)
                return {"lines": lines, "silent": silent}
            await deferLater(self._clock, LOOK_S)

    def _ended(self, result: Any) -> Any:
        self._waiting -= 1
        return result

    def _failed(self, failure: Failure, request: Request) -> None:
        if failure.check(CancelledError):
            return  # nobody waits for it any more
        if not failure.check(ValueError):  # the answers were pushed out by those to other questions
            self._log.failure("the output of a task could not be asked for", failure)
        _finish(request, 503, {"error": "the answers of the workers are lost; try again"})


def _json(request: Request, code: int, found: Any) -> bytes:
    return answer(request, code, json.dumps(found).encode() + b"\n", "application/json")


def _finish(request: Request, code: int, found: Any) -> None:
    request.write(_json(request, code, found))
    request.finish()
