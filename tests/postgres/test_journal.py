"""The journal in a real PostgreSQL server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from twistdist import cli
from twistdist.errors import ConfigError, JournalError, LeaseLost
from twistdist.net.journal_writer import open_journal
from twistdist.storage import postgres
from twistdist.storage.postgres import PostgresJournal
from twistdist.wire import journal_rows as j

HOLD = """
import sys
from twistdist.storage.postgres import PostgresJournal
journal = PostgresJournal(sys.argv[1])
print(journal.open().epoch, flush=True)
journal.write({(6, 1): b"from the first"})
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def journals(url):
    """Make journals that are closed in the end."""
    made = []

    def make(where=url):
        made.append(PostgresJournal(where))
        return made[-1]

    yield make
    for one in made:
        one.give_up()
        one.close()


class Opening(threading.Thread):
    """``open`` in a thread, as the scheduler calls it."""

    def __init__(self, journal):
        super().__init__()
        self.journal, self.result, self.holders, self.waits = journal, None, [], threading.Event()
        self.start()

    def run(self):
        try:
            self.result = self.journal.open(self._told)
        except JournalError as error:
            self.result = error

    def _told(self, holder):
        self.holders.append(holder)
        self.waits.set()

    def done(self):
        self.join(30)
        assert not self.is_alive()
        return self.result


@pytest.fixture
def holder(url):
    """Another process that has the journal."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.epoch = int(process.stdout.readline())
    assert process.stdout.readline() == "written\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def rows(journal):
    return {key: body for key, body in journal.load() if key[0] != j.META}


def test_rows_come_back(journals, sql):
    first = journals()
    meta = first.open()
    first.write({(j.SESSION, 2**63 - 1): b"session", (j.BATCH, 1): b"", (j.BATCH, 2): bytes(range(256))})
    first.write({(j.BATCH, 1): b"more", (j.BATCH, 2): None, (j.BATCH, 3): None})
    first.write({})
    expected = {(j.SESSION, 2**63 - 1): b"session", (j.BATCH, 1): b"more"}
    assert rows(first) == expected
    assert first.size() > 0
    first.tidy()
    first.check()
    first.close()
    second = journals()
    assert second.open() == j.Meta(j.FORMAT, meta.epoch + 1, meta.lives + 1)
    assert rows(second) == expected
    assert sql("SELECT count(*) FROM twistdist_rows") == [(3,)]


def test_many_rows_are_one_transaction(journals, monkeypatch, sql):
    monkeypatch.setattr(postgres, "STATEMENT_BYTES", 1000)
    journal = journals()
    journal.open()
    sql("ALTER TABLE twistdist_rows ADD CHECK (number < 100)")
    with pytest.raises(JournalError, match="check constraint"):
        journal.write({(j.BATCH, number): b"x" * 300 for number in range(1, 101)})
    assert rows(journal) == {}
    many = {(j.BATCH, number): b"x" * 300 for number in range(1, 100)}
    journal.write(many)
    assert rows(journal) == many
    with pytest.raises(JournalError, match="check constraint"):
        journal.write({(j.BATCH, 1): None, (j.BATCH, 100): b""})
    assert rows(journal) == many
    assert journal.check() is None


def test_it_can_be_looked_into_while_it_is_in_use(journals, url, server, capsys):
    meta = journals().open()
    assert cli.main(["journal", url]) == 0
    assert f"epoch {meta.epoch}" in capsys.readouterr().out
    assert cli.main(["journal", server.url("absent")]) == 1
    assert "there is no journal" in capsys.readouterr().err


def test_another_format_is_refused(journals, sql):
    journals().open()
    for one in sql("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'twistdist%%'"):
        sql("SELECT pg_terminate_backend(%s, 10000)", *one)
    sql("UPDATE twistdist_rows SET body = %s WHERE kind = 1", j.encode(j.Meta(99, 1, 0)))
    other = journals()
    with pytest.raises(JournalError, match="format 99"):
        other.open()
    assert sql("SELECT body FROM twistdist_rows") == [(j.encode(j.Meta(99, 1, 0)),)]


def test_a_standby_takes_over_from_a_process_that_is_killed(journals, holder):
    opening = Opening(journals())
    assert opening.waits.wait(30)
    assert opening.holders == [f"the twistdist scheduler with pid {holder.pid} on {socket.gethostname()}"]
    assert opening.is_alive()
    holder.send_signal(signal.SIGKILL)
    assert opening.done().epoch == holder.epoch + 1
    assert rows(opening.journal) == {(6, 1): b"from the first"}


def test_a_standby_that_is_stopped_waits_no_longer(journals, holder):
    journal = journals()
    opening = Opening(journal)
    assert opening.waits.wait(30)
    journal.give_up()
    assert "was stopped" in str(opening.done())
    assert holder.poll() is None


def test_two_that_begin_at_once(journals):
    both = [Opening(journals()), Opening(journals())]
    first = next(one for one in iter(lambda: next((one for one in both if not one.is_alive()), None), 0) if one)
    second = both[1 - both.index(first)]
    assert isinstance(first.result, j.Meta)
    first.journal.write({(6, 1): b"x"})
    first.journal.close()
    assert second.done().epoch == first.result.epoch + 1
    assert rows(second.journal) == {(6, 1): b"x"}


def test_two_schemas_are_two_journals(journals, server, sql):
    sql("CREATE SCHEMA other")
    one, two = journals(), journals(server.url("other"))
    one.open()
    two.open()
    one.write({(6, 1): b"one"})
    assert rows(two) == {}


def ends_session(sql, journal):
    """End the server's side of the journal's connection, as keepalives would."""
    ((gone,),) = sql("SELECT pg_terminate_backend(%s, 10000)", journal._session[0])
    assert gone


@pytest.mark.parametrize("look", ["write", "check"])
def test_one_that_has_lost_the_lease_is_fenced(journals, sql, look):
    old, new = journals(), journals()
    old.open()
    ends_session(sql, old)
    new.open()
    new.write({(6, 1): b"new"})
    call = old.check if look == "check" else lambda: old.write({(6, 1): b"old"})
    with pytest.raises(JournalError):
        call()  # the connection is found broken
    with pytest.raises(LeaseLost, match=f"is held by the twistdist scheduler with pid {os.getpid()}"):
        call()
    new.close()
    with pytest.raises(LeaseLost):  # it stays so, also when nobody has the lease
        call()
    assert sql("SELECT body FROM twistdist_rows WHERE kind = 6") == [(b"new",)]
    assert LeaseLost.fatal


@pytest.mark.parametrize("look", ["write", "write much", "check"])
def test_the_epoch_fences_where_the_lock_does_not(journals, sql, look, monkeypatch):
    monkeypatch.setattr(postgres, "STATEMENT_BYTES", 10)
    journal = journals()
    meta = journal.open()
    journal.write({(6, 1): b"mine"})
    sql("UPDATE twistdist_rows SET body = %s WHERE kind = 1", j.encode(j.Meta(j.FORMAT, meta.epoch + 1, 1)))
    with pytest.raises(LeaseLost, match="taken over"):
        if look == "check":
            journal.check()
        else:
            journal.write({(6, number): b"old" * 5 for number in range(1 if look == "write" else 5)} | {(6, 1): None})
    assert sql("SELECT number, body FROM twistdist_rows WHERE kind = 6") == [(1, b"mine")]
    assert sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]  # it does not keep the lease


def test_one_that_takes_over_sees_what_was_being_written(journals, sql, server, schema):
    """A write that is under way when the lease goes over is either seen by the new one or never there."""
    import psycopg

    old, new = journals(), journals()
    old.open()
    with psycopg.connect(server.url(schema)) as between:  # holds up the old one's statement in its midst
        between.execute("LOCK TABLE twistdist_rows IN SHARE ROW EXCLUSIVE MODE")
        failed = []
        writing = threading.Thread(target=lambda: _write(old, {(6, 1): b"old"}, failed))
        writing.start()
        while not sql("SELECT 1 FROM pg_locks WHERE relation = 'twistdist_rows'::regclass AND NOT granted"):
            assert writing.is_alive()
        opening = Opening(new)
        assert opening.waits.wait(30)
        ends_session(sql, old)
        between.rollback()
    writing.join(30)
    opening.done()
    assert failed and rows(new) == {}


def _write(journal, what, failed):
    try:
        journal.write(what)
    except JournalError as error:
        failed.append(error)


def try_until_written(journal, what):
    for _ in range(200):
        try:
            journal.write(what)
        except JournalError as error:
            assert not isinstance(error, LeaseLost)
        else:
            return
    raise AssertionError("it can't be written")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_the_server_is_restarted_and_writes_go_on(journals, server, how):
    journal = journals()
    journal.open()
    journal.write({(6, 1): b"before"})
    server.stop(how)
    try:
        with pytest.raises(JournalError, match="can't be written"):
            journal.write({(6, 2): b"while"})
        with pytest.raises(JournalError, match="can't be reached"):
            journal.check()
    finally:
        server.start()
    try_until_written(journal, {(6, 2): b"while"})
    assert rows(journal) == {(6, 1): b"before", (6, 2): b"while"}


def test_the_holder_comes_first_when_the_server_is_restarted(journals, server, sql):
    journal, standby = journals(), journals()
    meta = journal.open()
    opening = Opening(standby)
    assert opening.waits.wait(30)
    server.stop()
    server.start()
    # The one that stands by is back first, and tries nothing yet.
    while not sql(
        "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'twistdist%%' AND state = 'idle' AND query LIKE 'COMMIT%%'"
    ):
        assert opening.is_alive()
    try_until_written(journal, {(6, 1): b"after"})
    assert opening.is_alive()
    journal.close()
    assert opening.done().epoch == meta.epoch + 1
    assert rows(standby) == {(6, 1): b"after"}


class Wire(threading.Thread):
    """Between a journal and its server: a wire that can be cut so that only the journal notices."""

    def __init__(self, server):
        super().__init__()
        self._server, self._listener = server, socket.create_server(("127.0.0.1", 0))
        self.port, self._open = self._listener.getsockname()[1], []
        self.start()

    def run(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._server.port))
            self._open.append((near, far))
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    @staticmethod
    def _copy(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass

    def cut(self):
        for near, _ in self._open:
            near.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.join()
        for pair in self._open:
            for one in pair:
                one.close()


def test_a_connection_breaks_and_the_server_does_not_notice(journals, server, schema):
    wire = Wire(server)
    try:
        journal = journals(server.url(schema, "127.0.0.1", wire.port))
        journal.open()
        before = journal._session
        wire.cut()
        with pytest.raises(JournalError, match="can't be written"):
            journal.write({(6, 1): b"x"})
        try_until_written(journal, {(6, 1): b"x"})  # the session that still had the lock was ended
        assert journal._session != before
        assert rows(journal) == {(6, 1): b"x"}
    finally:
        journal.close()
        wire.close()


def test_without_the_server_for_long_it_ends(journals, server, monkeypatch):
    journal = journals()
    journal.open()
    server.stop()
    try:
        with pytest.raises(JournalError):
            journal.write({(6, 1): b"x"})
        monkeypatch.setattr(postgres, "UNREACHABLE_S", -1.0)
        with pytest.raises(LeaseLost, match="another scheduler may have it"):
            journal.write({(6, 1): b"x"})
    finally:
        server.start()


def test_the_sessions_settings(journals, server, schema):
    journal = journals(server.url(schema, "127.0.0.1"))
    journal.open()
    for name, value in (("synchronous_commit", "on"), ("tcp_keepalives_idle", "5"), ("tcp_user_timeout", "10000")):
        assert journal._connection.execute(f"SHOW {name}").fetchone() == (value,)


def test_bad_urls_say_so_and_keep_the_password(server):
    with pytest.raises(ConfigError, match="not a usable address"):
        open_journal("postgresql://h/db?nonsense=1")
    journal = open_journal("postgresql://someone:hunter2@127.0.0.1:1/db")
    with pytest.raises(JournalError, match=r"postgresql://127\.0\.0\.1/db can't be used") as caught:
        journal.open()
    assert "hunter2" not in str(caught.value)
    with pytest.raises(JournalError, match="no schema has been selected"):
        open_journal(server.url("absent")).open()


def test_without_the_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'twistdist\[postgres\]'"):
        open_journal("postgresql://h/db")
