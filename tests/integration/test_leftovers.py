"""What a task leaves to the ones after it in its process, and what it finds there: nothing but what the user has set up."""

from __future__ import annotations

import contextvars
import ctypes
import glob
import os
import pathlib
import shutil
import subprocess
import sys
import time
import traceback
import types

import pytest

from tests.integration.habits import gone, lines, until
from twistdist.blocking import Client, LocalCluster


def other_pythons():
    """Interpreters of other versions that work."""
    here = "{}.{}".format(*sys.version_info)
    found = {}
    beside_ours = pathlib.Path(sys.base_prefix).parent.glob("*/bin/python3")
    in_path = [path for minor in range(6, 15) if (path := shutil.which(f"python3.{minor}")) is not None]
    for path in [*map(str, beside_ours), *in_path]:
        asked = subprocess.run(
            [path, "-c", "import sys, re; print('{}.{}'.format(*sys.version_info))"],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        if asked.returncode == 0 and asked.stdout.strip() != here:
            found.setdefault(asked.stdout.strip(), path)
    return list(found.values())


@pytest.fixture(scope="module")
def unbounded():
    """A client of one worker without a memory limit."""
    with LocalCluster(n_workers=1, memory_limit=0) as cluster, Client(cluster.address) as client:
        yield client


# ---- what a task starts ----------------------------------------------------------------------------


def test_another_python_starts_in_a_task_as_it_does_elsewhere(one):
    pythons = other_pythons()
    if not pythons:
        pytest.skip("there is no other Python here")
    for python in pythons:
        script = "import re, sys; print(*sys.path, sep='\\n')"
        options = {"capture_output": True, "text": True, "check": True}
        found = one.submit(subprocess.run, [python, "-c", script], **options).result(60).stdout
        assert found == subprocess.run([python, "-c", script], **options).stdout


def test_tasks_see_the_environment_as_the_user_set_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with LocalCluster(n_workers=1) as cluster, Client(cluster.address) as client:
        found = client.submit(lambda: dict(os.environ)).result(60)
        added = {name for name in found.keys() - os.environ.keys() if not name.endswith("_THREADS")}
        assert found["PYTHONPATH"] == str(tmp_path)
        assert added <= {"LC_CTYPE"}  # Python's own doing where there is no locale
        assert client.submit(lambda: sys.argv[1:]).result(60) == []


def test_a_script_s_own_modules_are_found_wherever_it_is_started(tmp_path):
    folder = tmp_path / "with:colon"
    folder.mkdir()
    (folder / "beside.py").write_text("def answer():\n    return 42\n")
    (folder / "script.py").write_text(
        "import beside\nfrom twistdist.blocking import Client\n"
        "with Client(n_workers=1) as client: print(client.submit(beside.answer).result())\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "selectors.py").write_text("raise ImportError('what lies in the current folder is not to be imported')\n")
    here = str(pathlib.Path(__file__).parents[2])
    code = f"import runpy, sys; sys.path[:0] = [{str(folder)!r}, {here!r}]; runpy.run_path({str(folder / 'script.py')!r})"
    command = [sys.executable, "-P", "-c", code] if sys.version_info >= (3, 11) else [sys.executable, str(folder / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, timeout=120)
    assert done.stdout == "42\n", done.stderr


# ---- errors ----------------------------------------------------------------------------------------


def frames(text):
    return [line.split(", in ")[1] for line in text.splitlines() if ", in " in line and line.lstrip().startswith("File ")]


def test_a_traceback_holds_the_user_s_frames_alone(one):
    def slow():
        try:
            time.sleep(600)
        finally:
            cleanup()

    def cleanup():
        raise OSError("in the cleanup")

    def inner():
        time.sleep(600)

    def failing():
        raise ValueError("x")

    def wrong_pickle():
        class Odd:
            def __reduce__(self):
                return failing, ()

        return Odd()

    def told(fn, *args, **options):
        return one.submit(fn, *args, **options).exception(60).__twistdist__.traceback

    assert frames(told(failing)) == ["failing"]
    assert frames(told(abs, 1, 2)) == []
    assert frames(told(lambda: sys.exit(3))) == ["<lambda>"]
    text = str(one.submit(inner, time_limit=0.3).exception(60))
    assert frames(text) == ["inner"]
    text = str(one.submit(slow, time_limit=0.3).exception(60))
    assert frames(text) == ["slow", "slow", "cleanup"]
    error = one.submit(failing).exception(60)
    assert [entry.name for entry in traceback.extract_tb(error.__traceback__)][-1] == "failing"
    assert frames(told(len, wrong_pickle())) == ["failing"]


def memory():
    with open("/proc/self/statm") as stream:
        _, resident, shared, *_ = stream.read().split()
    return os.getpid(), (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE") >> 20


@pytest.mark.parametrize("way", ["plain", "cycle", "cached", "cause"])
def test_a_failed_task_s_locals_do_not_outlive_it(unbounded, way):
    def fail(way):
        data = b"x" * (400 << 20)
        try:
            raise ValueError(len(data))
        except ValueError as error:
            if way == "cycle":
                keep = error
                raise keep  # noqa: B904
            if way == "cached":
                sys.kept = error
                raise
            if way == "cause":
                raise KeyError("other") from error
            raise

    size = memory
    pid, before = unbounded.submit(size).result(60)
    assert isinstance(unbounded.submit(fail, way).exception(60), ValueError | KeyError)
    after_pid, after = unbounded.submit(size).result(60)
    assert after_pid == pid and after < before + 100


# ---- between two tasks -----------------------------------------------------------------------------


def set_filters():
    import warnings

    warnings.simplefilter("error")


def say_filters():
    import warnings

    warnings.warn("x", stacklevel=1)
    return len(warnings.filters)


def set_warnings():
    import logging
    import warnings

    logging.captureWarnings(True)
    warnings.showwarning = print
    time.sleep(0.002)


def say_warnings():
    import logging
    import warnings

    return warnings.showwarning.__module__, logging._warnings_showwarning


def set_decimals():
    import decimal

    decimal.getcontext().prec = 3
    decimal.setcontext(decimal.Context(prec=4))
    decimal.getcontext().traps[decimal.Inexact] = True


def say_decimals():
    import decimal

    return str(decimal.Decimal(1) / 3), decimal.getcontext().traps[decimal.Inexact]


def set_logging():
    import logging

    logging.basicConfig(level=logging.DEBUG)
    logging.disable(logging.ERROR)


def say_logging():
    import logging

    return logging.root.handlers, logging.root.level, logging.root.isEnabledFor(logging.ERROR)


def set_paths():
    sys.path.insert(0, "/nowhere")
    sys.path = ["/nowhere", *sys.path]
    sys.argv.append("--option")


def say_paths():
    return sys.path, sys.argv


def set_sockets():
    import socket

    socket.setdefaulttimeout(0.001)


def say_sockets():
    import socket

    return socket.getdefaulttimeout()


def set_collector():
    import gc

    gc.set_threshold(1, 2, 3)
    gc.disable()


def say_collector():
    import gc

    return gc.isenabled(), gc.get_threshold()


def set_context_variable():
    sys.own_variable = getattr(sys, "own_variable", None) or contextvars.ContextVar("own", default="nobody")
    before = sys.own_variable.get()
    sys.own_variable.set("user-1")
    return before


def set_loop():
    import asyncio

    asyncio.run(asyncio.sleep(0))
    asyncio.set_event_loop_policy(type("Own", (asyncio.DefaultEventLoopPolicy,), {})())


def say_loop():
    import asyncio
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loop = asyncio.get_event_loop()
    loop.close()
    return type(asyncio.get_event_loop_policy()).__name__


def set_time_zone():
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()


def set_time_zone_and_hide_it():
    set_time_zone()
    del os.environ["TZ"]


def say_time_zone():
    return time.localtime(0)[:], time.tzname, time.timezone, time.strftime("%Z")


def set_locale():
    import locale

    locale.setlocale(locale.LC_ALL, "C.UTF-8" if locale.setlocale(locale.LC_ALL) == "C" else "C")
    time.sleep(0.002)


def say_locale():
    import locale

    return locale.setlocale(locale.LC_ALL)


def set_hooks():
    import threading

    sys.excepthook = sys.displayhook = threading.excepthook = print
    sys.last_value, sys.tracebacklimit = ValueError(), 0
    time.sleep(0.002)


def say_hooks():
    import threading

    hooks = sys.excepthook, sys.displayhook, threading.excepthook
    return [hook is print for hook in hooks], hasattr(sys, "last_value"), hasattr(sys, "tracebacklimit")


def set_interpreter():
    sys.setswitchinterval(0.5)
    sys.setrecursionlimit(300)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(640)
    time.sleep(0.002)


def say_interpreter():
    digits = sys.get_int_max_str_digits() if hasattr(sys, "set_int_max_str_digits") else 0
    return sys.getswitchinterval(), sys.getrecursionlimit(), digits


def set_start_method():
    import multiprocessing

    multiprocessing.set_start_method("spawn")


def say_start_method():
    import multiprocessing

    return multiprocessing.get_start_method(allow_none=True)


def set_affinity():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    time.sleep(0.002)


def say_affinity():
    return os.sched_getaffinity(0)


def set_numpy():
    import numpy

    numpy.seterr(all="raise")
    time.sleep(0.002)


def say_numpy():
    import numpy

    return numpy.geterr()


HABITS = [
    (set_filters, say_filters),
    (set_warnings, say_warnings),
    (set_decimals, say_decimals),
    (set_logging, say_logging),
    (set_paths, say_paths),
    (set_sockets, say_sockets),
    (set_collector, say_collector),
    (set_context_variable, set_context_variable),
    (set_loop, say_loop),
    (set_time_zone, say_time_zone),
    (set_time_zone_and_hide_it, say_time_zone),
    (set_locale, say_locale),
    (set_hooks, say_hooks),
    (set_interpreter, say_interpreter),
    (set_start_method, say_start_method),
    pytest.param(set_affinity, say_affinity, marks=pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux's")),
    (set_numpy, say_numpy),
]


@pytest.mark.parametrize(("change", "say"), HABITS, ids=lambda one: one.__name__)
def test_what_a_task_changes_is_put_back(one, change, say):
    """Both in the same executor, right after one another."""

    def in_process(function):
        return os.getpid(), function()

    def by_value(function):
        return types.FunctionType(function.__code__, {**globals_of_tasks, **{f.__name__: f for f in (set_time_zone,)}})

    globals_of_tasks = {"__name__": "tasks", "os": os, "sys": sys, "time": time, "contextvars": contextvars}
    change, say = by_value(change), by_value(say)
    pid, before = one.submit(in_process, say).result(60)
    for _ in range(3):
        changed_in, _ = one.submit(in_process, change).result(60)
        assert (changed_in, one.submit(in_process, say).result(60)) == (pid, (pid, before))


def test_random_numbers_are_random_whatever_seed_a_task_has_set(one):
    def draw():
        import random

        import numpy

        return os.getpid(), random.random(), numpy.random.random()

    def draw_seeded(seed):
        import random

        import numpy

        random.seed(seed)
        numpy.random.seed(seed)
        time.sleep(0.002)
        return random.random(), numpy.random.random()

    first, second = (one.submit(draw_seeded, 7).result(60) for _ in range(2))
    assert first == second
    drawn = []
    for _ in range(3):
        one.submit(draw_seeded, 7).result(60)
        drawn.append(one.submit(draw).result(60))
    pids, numbers, numpys = zip(*drawn, strict=True)
    assert len(set(pids)) == 1 and len(set(numbers)) == len(set(numpys)) == 3


def test_what_a_module_sets_up_while_it_is_imported_stays(tmp_path):
    (tmp_path / "sets_up.py").write_text(
        "import decimal, logging, os, sys, warnings\n"
        "decimal.getcontext().prec = 5\nlogging.basicConfig(level=logging.INFO)\nos.environ['SET_UP'] = '1'\n"
        "warnings.filterwarnings('ignore', message='quiet')\nsys.path.append('/set/up')\n"
        "def look():\n"
        "    return (str(decimal.Decimal(1) / 3), logging.root.level, len(logging.root.handlers), os.environ.get('SET_UP'),\n"
        "            any(one[0] == 'ignore' and one[1] and one[1].match('quiet') for one in warnings.filters), sys.path[-1])\n"
        "def change():\n"
        "    decimal.getcontext().prec = 9; logging.root.setLevel(50); warnings.resetwarnings(); sys.path.pop()\n"
    )

    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import sets_up\nfrom twistdist.blocking import Client\n"
        "with Client(n_workers=1) as client:\n"
        "    for _ in range(3):\n"
        "        print(client.submit(sets_up.look).result())\n"
        "        client.submit(sets_up.change).result()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "('0.33333', 20, 1, '1', True, '/set/up')\n" * 3, done.stderr


def test_a_nice_or_a_user_that_can_not_be_put_back_costs_the_executor(one):
    if os.getuid():
        pytest.skip("as root everything can be put back, and only root can become another to try")

    def give_up_privileges():
        os.nice(5)
        os.setresuid(65534, 65534, 65534)
        return os.getpid()

    def look():
        return os.getpid(), os.getuid(), os.getpriority(os.PRIO_PROCESS, 0)

    nice_before = os.getpriority(os.PRIO_PROCESS, 0)
    pid = one.submit(give_up_privileges).result(60)
    found, user, nice = one.submit(look).result(60)
    assert found != pid and (user, nice) == (0, nice_before)
    one.submit(lambda: os.nice(5) and time.sleep(0.002)).result(60)
    assert one.submit(look).result(60)[1:] == (0, nice_before)  # root may: put back


def test_garbage_in_cycles_is_collected_before_it_fills_the_memory(unbounded):
    def leave_a_cycle():
        import gc

        gc.disable()
        cycle = [b"x" * (100 << 20)]
        cycle.append(cycle)

    size = memory
    pid, before = unbounded.submit(size).result(60)
    for _ in range(12):
        unbounded.submit(leave_a_cycle).result(60)
    after_pid, after = unbounded.submit(size).result(60)
    assert after_pid == pid and after < before + 250


# ---- processes -------------------------------------------------------------------------------------


def shared_names():
    return {path for pattern in ("sem.mp-*", "psm_*", "twd-own-*") for path in glob.glob(f"/dev/shm/{pattern}")}


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="where semaphores and shared memory are no files")
@pytest.mark.parametrize("way", ["spawn", "forkserver", "shared memory", "killed"])
def test_no_semaphore_and_no_shared_memory_is_left(one, tmp_path, way):
    def fail_in_a_pool(method):
        import multiprocessing

        sys.kept = multiprocessing.get_context(method).Pool(2)
        return sys.kept.map(ord, ["a", "bc"])

    def leave_shared_memory():
        from multiprocessing.shared_memory import SharedMemory

        sys.kept = SharedMemory(create=True, size=1 << 20)

    def wait_in_a_pool(path):
        import multiprocessing

        sys.kept = multiprocessing.get_context("spawn").Pool(2)
        pathlib.Path(path).touch()
        ctypes.PyDLL(None).sleep(600)  # holds the GIL: the interrupt is not heard, and the process is killed

    before = shared_names()
    if way == "shared memory":
        one.submit(leave_shared_memory).result(60)
    elif way == "killed":
        future = one.submit(wait_in_a_pool, str(tmp_path / "begun"))
        until((tmp_path / "begun").exists)
        assert shared_names() - before
        future.cancel()
    else:
        with pytest.raises(TypeError):
            one.submit(fail_in_a_pool, way).result(60)
    assert one.submit(abs, -1).result(60) == 1
    until(lambda: not shared_names() - before, 20)


def test_who_only_calls_itself_a_resource_tracker_lives_no_longer_than_the_grace(one, tmp_path):
    log = str(tmp_path / "log")
    script = (
        "import os, sys, time\n"
        "while True:\n"
        "    open(sys.argv[1], 'a').write(f'{os.getpid()}\\n')\n"
        "    time.sleep(0.05)\n"
        "    if os.fork(): os._exit(0)\n"
        "'from multiprocessing.resource_tracker import main'\n"
    )

    def leave():
        subprocess.Popen([sys.executable, "-c", script, log], start_new_session=True)
        subprocess.Popen([sys.executable, "-c", script.replace("if os.fork", "if False and os.fork"), log])
        until(lambda: len(set(lines(log))) > 2)

    one.submit(leave).result(60)
    began = time.monotonic()
    assert one.submit(abs, -1).result(60) == 1
    assert time.monotonic() - began < 1  # nobody waits for the grace
    until(lambda: all(gone(int(pid)) for pid in set(lines(log))), 20)


# ---- threads of libraries, logs --------------------------------------------------------------------


def blas_threads():
    """Threads that numpy's OpenBLAS has, by what a product of matrices leaves in the process."""
    import numpy

    matrix = numpy.ones((600, 600))
    matrix @ matrix
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
@pytest.mark.parametrize(("given", "threads"), [({}, 1), ({"OMP_NUM_THREADS": "2"}, 2), ({"OPENBLAS_NUM_THREADS": "2"}, 2)])
def test_as_many_threads_of_numpy_as_the_user_says(monkeypatch, given, threads):
    for name in [name for name in os.environ if name.endswith("_NUM_THREADS")]:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    numpy = pytest.importorskip("numpy")
    if "openblas" not in str(numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]) or os.cpu_count() < 2:
        pytest.skip("numpy's own OpenBLAS and two processors are needed to see it")
    count = blas_threads
    with LocalCluster(n_workers=1) as cluster, Client(cluster.address) as client:
        assert client.submit(count).result(60) == threads


def test_logs_of_tasks_are_told_with_their_key_and_each_task_says_for_itself_what_is_logged(tmp_path):
    script = (
        "import logging\nfrom twistdist.blocking import Client\n"
        "def loud(text):\n"
        "    logging.basicConfig(level=logging.INFO)\n"
        "    logging.getLogger('own').info(text)\n"
        "def plain(text):\n"
        "    logging.info(text); logging.warning('warned of ' + text)\n"
        "with Client(n_workers=1) as client:\n"
        "    client.submit(loud, 'one', key='first').result()\n"
        "    client.submit(loud, 'two', key='second').result()\n"
        "    client.submit(plain, 'three', key='third').result()\n"
        "    client.submit(plain, 'four', key='fourth').result()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    told = [line.split("] ")[-1] for line in done.stderr.splitlines() if "stderr: " in line]
    assert [line.split("#", 1)[-1] for line in told] == [
        "first stderr: INFO:own:one",
        "second stderr: INFO:own:two",
        "third stderr: WARNING:root:warned of three",
        "fourth stderr: WARNING:root:warned of four",
    ], done.stderr
