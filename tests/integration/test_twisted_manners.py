"""What Twisted users expect: every Deferred can be cancelled, nothing is left unhandled, every way to run a reactor works."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel, globalLogPublisher

import twistdist

CALLS = {
    "Future.result": lambda client, future: future.result(),
    "Future.exception": lambda client, future: future.exception(),
    "Future.traceback": lambda client, future: future.traceback(),
    "gather": lambda client, future: client.gather([future]),
    "wait": lambda client, future: twistdist.wait([future]),
    "as_completed": lambda client, future: twistdist.as_completed([future]).next(),
    "progress": lambda client, future: twistdist.progress([future]),
    "scatter": lambda client, future: client.scatter([1, 2]),
    "replicate": lambda client, future: client.replicate([future], 2),
    "rebalance": lambda client, future: client.rebalance(),
    "retry": lambda client, future: client.retry([future]),
    "workers": lambda client, future: client.workers(),
    "wait_for_workers": lambda client, future: client.wait_for_workers(100),
    "who_has": lambda client, future: client.who_has(),
    "has_what": lambda client, future: client.has_what(),
    "why": lambda client, future: client.why(future),
    "lineage": lambda client, future: client.lineage(future),
    "logs": lambda client, future: client.logs(),
    "run": lambda client, future: client.run(abs, -1),
    "incidents": lambda client, future: client.incidents(),
    "status": lambda client, future: client.status(),
    "futures": lambda client, future: client.futures(),
    "take_up": lambda client, future: client.take_up(["nothing"]),
    "list_datasets": lambda client, future: client.list_datasets(),
    "get": lambda client, future: client.get({"a": (abs, -1)}, "a"),
}


@pytest.fixture
def errors_logged():
    """What was logged as an error, unhandled failures of Deferreds among it."""
    found = []

    def look(event):
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            found.append(event)

    globalLogPublisher.addObserver(look)
    yield found
    globalLogPublisher.removeObserver(look)


@pytest_twisted.ensureDeferred
async def test_every_deferred_can_be_cancelled_and_the_client_goes_on(cluster, errors_logged):
    client = await twistdist.connect(reactor, cluster.address)
    try:
        future = client.submit(abs, -1, workers=["nobody"])
        for name, call in CALLS.items():
            waiting = call(client, future)
            assert isinstance(waiting, Deferred), name
            waiting.cancel()
            with pytest.raises(CancelledError):
                await waiting
            assert await client.submit(abs, -2).result() == 2, name
        assert future.status == "pending"  # nobody waits for it any more, but it was not cancelled
        future.cancel()
        await client.status()
    finally:
        await client.close()
    gc.collect()
    assert errors_logged == []


def run(code, *command, cwd):
    (cwd / "program.py").write_text(textwrap.dedent(code))
    words = [sys.executable, *(command or ("program.py",))]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120)


WORK = """
    import twistdist

    async def work(reactor):
        client = await twistdist.connect(reactor, n_workers=1)
        print("the value is", await client.submit(pow, 2, 10).result(), flush=True)
        await client.close()
"""


def test_task_react(tmp_path):
    done = run(WORK + "\n    from twisted.internet import task\n    task.react(work)\n", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the value is 1024\n", "")


def test_the_asyncio_reactor_and_coroutines_of_asyncio(tmp_path):
    done = run(
        """
        import asyncio
        from twisted.internet import asyncioreactor
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        asyncioreactor.install(loop)
        """
        + textwrap.indent(textwrap.dedent(WORK), " " * 8)
        + """
        async def main():
            from twisted.internet import reactor
            from twisted.internet.defer import Deferred
            reactor.startRunning()
            await Deferred.fromCoroutine(work(reactor)).asFuture(loop)

        loop.run_until_complete(main())
        """,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, "the value is 1024\n"), done.stderr


def test_trial(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent("""
        from twisted.internet import reactor
        from twisted.internet.defer import inlineCallbacks
        from twisted.trial.unittest import TestCase

        import twistdist

        class Mine(TestCase):
            @inlineCallbacks
            def test_value(self):
                client = yield twistdist.connect(reactor, n_workers=1)
                self.assertEqual((yield client.submit(pow, 2, 10).result()), 1024)
                yield self.assertFailure(client.submit(divmod, 1, 0).result(), ZeroDivisionError)
                yield client.close()
        """)
    )
    done = run("", "-m", "twisted.trial", "test_mine", cwd=tmp_path)
    assert "PASSED (successes=1)" in done.stdout and done.returncode == 0, done.stdout + done.stderr
