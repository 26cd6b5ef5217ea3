"""One role as a process of a cluster: ``python -m twistdist.tap ROLE OPTIONS``.

It logs errors to standard error, and prints a line to standard output when it is ready.

As a child of an embedded cluster (``--parent-fd N --lock-fd N --folder DIR …``) it tells the parent instead, and ends when the
parent has ended.  All processes of such a cluster share the lock of its folder; if the parent has ended, the last of them
removes the folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from functools import partial
from typing import Any

from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="python -m twistdist.tap")
    parser.add_argument("--parent-fd", type=int)
    parser.add_argument("--listen-fd", type=int, action="append", default=[])
    parser.add_argument("--lock-fd", type=int)
    parser.add_argument("--folder", action="append", default=[], help="a folder of the cluster; the first one has the lock")
    parser.add_argument("role", choices=("scheduler", "worker"))
    parser.add_argument("options", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()

    observer: Any = textFileLogObserver(sys.stderr)
    level = LogLevel.lookupByName(os.environ.get("TWISTDIST_LOG_LEVEL", "error"))
    predicate: Any = LogLevelFilterPredicate(defaultLogLevel=level)
    predicate.setLogLevelForNamespace("twistdist.tasks", LogLevel.info)  # what tasks print is meant for their author
    filtered: Any = FilteringLogObserver(observer, [predicate])
    globalLogBeginner.beginLoggingTo([filtered], redirectStandardIO=False)

    from twisted.internet import reactor

    from twistdist.executors.launch import LEAVES, READY
    from twistdist.net.children import ParentLink
    from twistdist.storage.store import is_abandoned
    from twistdist.tap.roles import Role

    module: Any
    if arguments.role == "scheduler":
        from twistdist.tap import scheduler as module
    else:
        from twistdist.tap import worker as module
    options = module.Options()
    options.parseOptions(arguments.options)
    if arguments.listen_fd:
        options["listen-fd"] = arguments.listen_fd
    the_reactor: Any = reactor
    role = Role(the_reactor, lambda role: module.make(options, the_reactor, role))
    orphaned = False

    def parent_is_gone() -> None:
        nonlocal orphaned
        orphaned = True
        role.end()

    if arguments.parent_fd is not None:
        parent = ParentLink(the_reactor, arguments.parent_fd, parent_is_gone)
        role.on_ready = partial(parent.say, READY)
        role.on_leaves = partial(parent.say, LEAVES)
    role.startService()
    the_reactor.addSystemEventTrigger("before", "shutdown", role.stopService)
    # If the reactor is already stopping, its own handler stops it a second time and logs an error.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: the_reactor.callFromThread(role.end))
    the_reactor.run(installSignalHandlers=False)
    if arguments.lock_fd is not None:
        os.close(arguments.lock_fd)
    if orphaned and arguments.folder and is_abandoned(arguments.folder[0]):
        for folder in arguments.folder:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
