"""The loop of ``twistdist top``: asks the scheduler once a second, draws, and watches the keyboard."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from twistdist.blocking import Client
from twistdist.errors import ClientClosed, TwistdistError
from twistdist.top.model import Model

try:
    from rich.console import Console
    from rich.live import Live

    from twistdist.top.view import frame
except ImportError as error:
    if (error.name or "").partition(".")[0] != "rich":
        raise
    raise TwistdistError("twistdist top needs rich: pip install 'twistdist[top]'") from error

#: Seconds between two questions.
INTERVAL_S = 1.0

#: Seconds between the two questions of a single frame: a throughput is the difference between two.
ONCE_S = 0.5

#: Seconds without an answer after which the frame says so.
SILENT_S = 2.5

#: Seconds until Ctrl-Z is noticed.
KEY_S = 0.2

#: The size of a frame that is not for a terminal of known size.
PLAIN_WIDTH, PLAIN_HEIGHT = 120, 200


class _Asker:
    """Asks for snapshots in the client's reactor, one at a time: the terminal is served while an answer takes long."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._asked = False

    def ask(self, since: float | None) -> None:
        """Ask, unless an answer is due."""
        if not self._asked:
            self._asked = True
            self._client._thread.reactor.callFromThread(self._ask, since)

    def _ask(self, since: float | None) -> None:
        self._client._session._query("snapshot", since).addCallbacks(self._answers.put, lambda f: self._answers.put(f.value))

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """Return what was answered, if anything within ``seconds``.

        Raises:
            ClientClosed: The scheduler can't be used any more, since it was started again with another secret or version.
        """
        try:
            found = self._answers.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        self._asked = False
        if isinstance(found, TwistdistError) and not isinstance(found, ClientClosed):
            return None  # the scheduler was restarted meanwhile: ask again
        if isinstance(found, BaseException):
            raise found
        answer: dict[str, Any] = found
        return answer

    def connected(self) -> bool:
        return bool(self._client._session.connected)


def run(address: str, secret: bytes | None, tls: str | None, timeout: float, once: bool) -> None:
    """Show the cluster until ``q`` or Ctrl-C; only one frame with ``once``, or if standard output is no terminal.

    Raises:
        TwistdistError: The scheduler can't be reached, or refuses this client.
        TimeoutError: It does not answer.
    """
    with Client(address, secret=secret, tls=tls, timeout=timeout) as client:
        asker, model = _Asker(client), Model()
        _take(asker, model, timeout)
        console = _console()
        if once or not console.is_terminal or console.is_dumb_terminal:
            _once(asker, model, address, timeout, console)
        else:
            _watch(asker, model, address, console)


def _take(asker: _Asker, model: Model, timeout: float) -> None:
    """Wait for one answer."""
    asker.ask(model.since)
    answer = asker.answer(timeout)
    if answer is None:
        raise TimeoutError(f"the scheduler did not answer within {timeout:g} s")
    model.take(answer, time.time())


def _once(asker: _Asker, model: Model, address: str, timeout: float, console: Console) -> None:
    time.sleep(ONCE_S)
    _take(asker, model, timeout)
    plain = not console.encoding.lower().startswith("utf")
    console.print(frame(model, address, time.time(), console.width, PLAIN_HEIGHT, plain=plain))


def _console() -> Console:
    """rich looks at NO_COLOR itself."""
    terminal = sys.stdout.isatty()
    with contextlib.suppress(AttributeError):  # a test's stream
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    width = None if terminal else shutil.get_terminal_size((PLAIN_WIDTH, PLAIN_HEIGHT)).columns
    return Console(
        force_terminal=terminal, color_system="auto" if terminal else None, width=width, highlight=False, markup=False
    )


def _watch(asker: _Asker, model: Model, address: str, console: Console) -> None:
    plain = not console.encoding.lower().startswith("utf")
    silent_since = 0.0
    with _ends_softly(), _Keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            asker.ask(model.since)
            answer = asker.answer(0.2)
            if answer is not None and model.is_of_another_life(answer):  # its clock is another one: ask from its beginning
                model.take({**answer, "spans": [], "incidents": []}, time.time())
                asker.ask(None)
                answer = asker.answer(0.2)
            now = time.time()
            if answer is not None:
                model.take(answer, now)
            silent_since = 0.0 if asker.connected() and now - model.answered < SILENT_S else silent_since or model.answered
            trouble = f"no answer for {now - silent_since:.0f} s; trying again, what follows is old" if silent_since else ""
            width, height = console.size
            live.update(frame(model, address, now, width, height, trouble, plain), refresh=True)
            if keyboard.quits(max(0.05, INTERVAL_S - (time.monotonic() - began))):
                return
            if keyboard.suspended:
                live.stop()
                keyboard.__exit__()
                os.kill(os.getpid(), signal.SIGSTOP)  # until the shell's fg
                keyboard.suspended = False
                keyboard.__enter__()
                live.start()


class _Ended(BaseException):
    """The process was told to end."""


@contextlib.contextmanager
def _ends_softly() -> Iterator[None]:
    """End at Ctrl-C, SIGTERM and SIGHUP by leaving the block, so that the terminal is restored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(*_: Any) -> None:
        for number in numbers:  # a second one must not interrupt that
            signal.signal(number, signal.SIG_IGN)
        raise _Ended

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        with contextlib.suppress(_Ended):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Keyboard:
    """The terminal's keys, one at a time and not shown, as a context manager; nothing if standard input is no terminal.

    Ctrl-Z is noted, so that the screen can be given back before the process stops.
    """

    def __init__(self) -> None:
        self._descriptor = sys.stdin.fileno() if sys.stdin.isatty() else -1
        self._modes: Any = None
        self._handler: Any = None
        self.suspended = False

    def __enter__(self) -> _Keyboard:
        self._handler = signal.signal(signal.SIGTSTP, self._suspend)
        if self._descriptor >= 0:
            import termios
            import tty

            self._modes = termios.tcgetattr(self._descriptor)
            tty.setcbreak(self._descriptor)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._modes is not None:
            import termios

            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._modes)
        signal.signal(signal.SIGTSTP, self._handler)

    def _suspend(self, *_: Any) -> None:
        self.suspended = True

    def quits(self, seconds: float) -> bool:
        """Wait for so many seconds; return True at once when ``q`` is pressed, and False at once at Ctrl-Z."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.suspended:
            left = min(left, KEY_S)
            if self._descriptor < 0:
                time.sleep(left)
            elif select.select([self._descriptor], [], [], left)[0]:
                read = os.read(self._descriptor, 1024)
                if not read or b"q" in read or b"Q" in read:  # nothing: the terminal is gone
                    return True
        return False
