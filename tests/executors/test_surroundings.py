"""What a task changes around itself is put back; in processes of their own, since they change themselves."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

HEAD = """
import os, sys, signal, locale, random, warnings, decimal, time, resource, threading
from twistdist.executors.surroundings import Surroundings
surroundings = Surroundings(sys.stdout, sys.stderr, 50)
"""


def run(change, check, head=HEAD):
    """Run ``change`` as a task would, restore, and evaluate ``check`` in the same process."""
    code = head + textwrap.dedent(change) + "\nsurroundings.restore(True)\nassert (" + check + "), 'not put back'\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "change, check",
    [
        ("os.environ['NEW'] = '1'; os.environ.pop('PATH')", "'NEW' not in os.environ and 'PATH' in os.environ"),
        ("before = os.getcwd(); os.chdir('/')", "os.getcwd() == before"),
        ("before = os.umask(0o022); os.umask(before); os.umask(0o777)", "os.umask(before) == before"),
        ("before = list(sys.path); sys.path.insert(0, '/x')", "sys.path == before"),
        ("before = sys.argv; sys.argv = ['other']", "sys.argv is before"),
        ("out = sys.stdout; sys.stdout = None", "sys.stdout is out"),
        ("before = sys.getrecursionlimit(); sys.setrecursionlimit(5000)", "sys.getrecursionlimit() == before"),
        ("signal.signal(signal.SIGUSR2, signal.SIG_IGN)", "signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL"),
        (
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])",
            "signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])",
        ),
        ("before = list(warnings.filters); warnings.simplefilter('error')", "warnings.filters == before"),
        ("hook = sys.excepthook; sys.excepthook = print", "sys.excepthook is hook"),
        ("before = os.getcwd; os.getcwd = lambda: '/'", "os.getcwd is before"),
        ("os.environ['TZ'] = 'Asia/Tokyo'; before = time.tzname; time.tzset()", "time.tzname == before"),
        ("os.close(0)", "os.fstat(0)"),
    ],
)
def test_what_is_put_back(change, check):
    run(change, check)


def test_context_variables_of_one_task_are_not_those_of_the_next():
    run(
        """
        import contextvars
        variable = contextvars.ContextVar("v", default=0)
        surroundings.run(variable.set, (5,), {})
        """,
        "surroundings.run(variable.get, (), {}) == 0",
    )


def test_the_decimal_context_of_one_task_is_not_that_of_the_next():
    run(
        """
        def change():
            decimal.getcontext().prec = 3
        surroundings.run(change, (), {})
        """,
        "surroundings.run(lambda: decimal.getcontext().prec, (), {}) == 28",
    )


def test_what_can_not_be_put_back_spoils_the_process():
    run("os.chroot = None\nresource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))", "surroundings.spoiled or os.getuid() == 0")


def test_random_numbers_differ_between_processes():
    seen = set()
    for _ in range(2):
        code = HEAD + "print(random.random())"
        seen.add(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert len(seen) == 2
