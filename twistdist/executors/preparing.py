"""What happens in an executor before its first task: modules are imported in the template, plugins are set up."""

from __future__ import annotations

import importlib
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Iterable
from typing import Any

import attrs

from twistdist.executors import awaiting, context

#: Seconds that the teardown of all plugins of an executor may take together; then the process is ended.
TEARDOWN_S = 3


@attrs.frozen
class PluginWorker:
    """What a plugin is told about where it is: the worker's ``name``, the scheduler's ``address``, and the ``number`` of the
    executor process, which is unique among those that the worker has at a time (-1: it is only tried out)."""

    name: str
    address: str
    number: int


def import_all(modules: Iterable[str]) -> str:
    """Import modules into this process, which will be forked.  Return what went wrong, or ""."""
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException as error:  # SystemExit too
            traceback.print_exc()
            return f"{name} can't be imported: {type(error).__qualname__}: {error}"
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others:
        text = f"twistdist: the preloaded modules have started threads ({', '.join(others)}), which do not exist in executors"
        print(text, file=sys.stderr, flush=True)
    return ""


class Plugins:
    """The plugins of one executor."""

    def __init__(self, worker: PluginWorker) -> None:
        self._worker = worker
        self._ready: list[tuple[str, Any]] = []

    def set_up(self, named: Iterable[tuple[str, str]]) -> str:
        """Load plugins, given as pairs of a name and a file, and set them up in order.  Return what went wrong, or ""."""
        for name, path in named:
            try:
                with open(path, "rb") as file:
                    plugin = pickle.load(file)
                call(plugin, "setup", self._worker)
            except BaseException as error:
                traceback.print_exc()
                self.tear_down()
                return f"the setup of the plugin {name} failed: {type(error).__qualname__}: {error}"
            self._ready.append((name, plugin))
        return ""

    def tear_down(self) -> None:
        """Tear down, in reverse order, what was set up.  If that takes too long, the process ends."""
        if self._ready:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
            signal.setitimer(signal.ITIMER_REAL, TEARDOWN_S)
        while self._ready:
            name, plugin = self._ready.pop()
            try:
                call(plugin, "teardown", self._worker)
            except BaseException:
                print(f"the teardown of the plugin {name} failed:", file=sys.stderr)
                traceback.print_exc()
        signal.setitimer(signal.ITIMER_REAL, 0)


def call(plugin: Any, method: str, worker: PluginWorker) -> None:
    """Call a method if the plugin has it; one that is a coroutine function is awaited."""
    function = getattr(plugin, method, None)
    if function is not None:
        awaiting.final_value(function(worker))


def try_out(blob: bytes) -> None:
    """Set a pickled plugin up and tear it down, in a task beside the slots."""
    plugin, task = pickle.loads(blob), context.current()
    worker = PluginWorker(task.worker if task else "", task.address if task else "", -1)
    call(plugin, "setup", worker)
    call(plugin, "teardown", worker)
