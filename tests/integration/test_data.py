"""Data: no needless copy, nothing lost with a worker.  Real processes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request

import pytest

from tests.integration.habits import lines, note, until
from twistdist import errors
from twistdist.blocking import Client, LocalCluster, wait
from twistdist.storage.files import write_file
from twistdist.storage.store import Store, remove_leftovers
from twistdist.wire.messages import Stored


def make(log, i, size=200_000):
    note(log, i)
    return bytes([i % 256]) * size


def stores(cluster):
    return pathlib.Path(cluster._service._folder)


def kill_all(cluster, names=None):
    """Kill workers with their stores; one that is down at this very moment has lost its store before."""
    for name in list(cluster.workers) if names is None else names:
        with contextlib.suppress(KeyError):
            cluster.kill_worker(name, wipe=True)


def holders(client, future):
    return client.who_has([future])[future.key]


@contextlib.contextmanager
def far_worker(cluster, name, *options):
    """One more worker, which takes itself to be on another host: everything goes over TCP."""
    folder = tempfile.mkdtemp(prefix="far-")
    twistd, secret = pathlib.Path(sys.executable).with_name("twistd"), stores(cluster) / "secret"
    command = [
        str(twistd),
        "-n",
        "twistdist-worker",
        cluster.address,
        "--name",
        name,
        "--slots",
        "1",
        "--store",
        f"{folder}/{name}",
        "--secret-file",
        str(secret),
        *options,
    ]
    environment = {**os.environ, "TWISTDIST_HOST": f"host-of-{name}", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, cwd=folder, **quiet) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(30)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def three():
    with LocalCluster(n_workers=3) as cluster, Client(cluster.address) as client:
        client.wait_for_workers(3, 60)
        yield cluster, client


# ---- adoption ------------------------------------------------------------------------------------


def test_a_neighbour_saves_what_a_killed_worker_held(three, tmp_path):
    cluster, client = three
    log = str(tmp_path / "log")
    futures = [client.submit(make, log, i) for i in range(40)]
    assert wait(futures, 60).not_done == set()
    cluster.kill_worker("w0")
    assert [value[:1] for value in client.gather(futures, timeout=60)] == [bytes([i]) for i in range(40)]
    assert len(lines(log)) == 40  # nothing was run again
    # Its neighbour was first, or (on a busy machine) it was back on its store itself.
    causes = [{"its process died"}, {"a new incarnation has replaced it"}]
    until(lambda: {one.cause for one in client.incidents() if one.kind == "worker lost"} in causes)


def test_a_worker_that_was_only_cut_off_is_not_robbed(tmp_path):
    mine, theirs = Store(str(tmp_path / "mine")), Store(str(tmp_path / "theirs"))
    write_file(theirs.path, 1, 5, [b"x" * 10_000])
    assert mine.rescue(theirs.path) == (False, [], [], [])
    theirs.close()
    dead, stored, _, wrong = mine.rescue(theirs.path)
    assert dead and [one.attempt for one in stored] == [5] and not wrong and mine.has(5) and not theirs.has(5)
    mine.destroy()


def test_a_worker_started_again_alone_on_its_store_computes_nothing_again(tmp_path):
    log = str(tmp_path / "log")
    with LocalCluster(n_workers=1) as cluster, Client(cluster.address) as client:
        futures = [client.submit(make, log, i) for i in range(20)]
        assert wait(futures, 60).not_done == set()
        store = stores(cluster) / "w0"
        (store / ".half").write_bytes(b"half-written")
        damaged = sorted(path for path in store.iterdir() if not path.name.startswith("."))[3]
        with open(damaged, "r+b") as stream:
            stream.seek(1000)
            stream.write(b"flipped")
        cluster.kill_worker("w0")
        until(lambda: any(one.kind == "worker back" for one in client.incidents()))
        assert [value[:1] for value in client.gather(futures, timeout=60)] == [bytes([i]) for i in range(20)]
        assert len(lines(log)) == 21  # the damaged one was found by its digest, and it alone
        assert not (store / ".half").exists()
        until(lambda: any(one.kind == "damaged files" for one in client.incidents()))


def test_a_damaged_result_is_found_when_another_host_needs_it_and_made_again(tmp_path):
    """Its holder said that the file was there, so that it was asked for again and again until the link counted as broken."""
    log = str(tmp_path / "log")
    with LocalCluster(n_workers=1, dead_after=600) as cluster, far_worker(cluster, "far"), Client(cluster.address) as client:
        client.wait_for_workers(2, 60)
        future = client.submit(make, log, 1, workers=["w0"])
        assert wait([future], 60).not_done == set()
        (there,) = (path for path in (stores(cluster) / "w0").iterdir() if not path.name.startswith("."))
        with open(there, "r+b") as stream:
            stream.seek(1000)
            stream.write(b"flipped")
        assert client.submit(len, future, workers=["far"]).result(60) == 200_000
        assert client.submit(bytes.count, future, b"\1", workers=["far"]).result(60) == 200_000
        assert len(lines(log)) == 2
        assert any(one.kind == "damaged files" and one.what == "w0" for one in client.incidents())


# ---- scatter -------------------------------------------------------------------------------------


def test_scattered_data_have_two_copies_and_survive_both(three):
    cluster, client = three
    data = os.urandom(500_000)
    future = client.scatter(data)
    assert len(holders(client, future)) == 2 and future.result(60) == data
    lost = holders(client, future)
    cluster.kill_worker(lost[0], wipe=True)
    until(lambda: len(set(holders(client, future)) - {lost[0]}) == 2)  # the target is kept up
    kill_all(cluster)
    assert client.submit(len, future).result(60) == 500_000  # supplied again
    assert future.result(60) == data


def test_scattered_data_are_lost_only_when_their_session_has_them_no_more(three):
    cluster, client = three
    future = client.scatter(os.urandom(50_000), replicas=1, resupply=False)
    cluster.kill_worker(holders(client, future)[0], wipe=True)
    with pytest.raises(errors.DataLost, match="scatter them again"):
        client.submit(len, future).result(60)
    assert client.scatter({"a": 1, "b": [2]})["b"].result(60) == [2]
    assert [one.result(60) for one in client.scatter([1, "x" * 100_000])] == [1, "x" * 100_000]


def test_scatter_to_all_also_to_those_who_come_later(three):
    cluster, client = three
    future = client.scatter(bytes(100_000), broadcast=True)
    assert len(holders(client, future)) == 3
    cluster.scale(4)
    until(lambda: len(holders(client, future)) == 4)
    named = client.scatter(bytes(50_000), workers=["w1"])
    assert holders(client, named) == ["w1"]


def test_the_same_content_again_at_any_moment(three):
    _, client = three
    data = os.urandom(100_000)
    for _ in range(20):
        one, two = client.scatter(data, hash=True), client.scatter(data, hash=True)
        assert one.key == two.key and client.submit(len, two).result(60) == 100_000
        del one, two
    until(lambda: sum(info.keys for info in client.workers().values()) == 0)


def test_nothing_is_left_when_nobody_wants_it(three):
    cluster, client = three
    client.scatter(os.urandom(100_000)).result(60)
    futures = client.map(os.urandom, [100_000] * 20, replicas=2)
    client.gather(futures, timeout=60)
    del futures
    files = lambda: [p for n in cluster.workers for p in (stores(cluster) / n).iterdir() if not p.name.startswith(".")]  # noqa: E731
    until(lambda: not files())


# ---- standing targets ------------------------------------------------------------------------------


def test_replicas_and_replicate(three):
    cluster, client = three
    future = client.submit(os.urandom, 100_000, replicas=2)
    value = future.result(60)
    until(lambda: len(holders(client, future)) == 2)
    client.replicate(future, 3)
    assert len(holders(client, future)) == 3
    cluster.kill_worker("w0", wipe=True)
    until(lambda: len(holders(client, future)) == 3)  # w0 is back, and has it again
    assert future.result(60) == value


def test_rebalance_and_retire(three, tmp_path):
    _, client = three
    log = str(tmp_path / "log")
    futures = [client.submit(make, log, i, workers=["w0"]) for i in range(30)]
    assert wait(futures, 60).not_done == set()
    assert len(client.has_what()["w0"]) == 30
    client.rebalance()
    counts = [len(keys) for keys in client.has_what().values()]
    assert max(counts) <= 15 and sum(counts) == 30
    with pytest.raises(ValueError, match="nobody"):
        client.retire_workers(["nobody"])
    client.retire_workers("w0", timeout=60)
    assert set(client.workers()) == {"w1", "w2"}
    assert [value[:1] for value in client.gather(futures, timeout=60)] == [bytes([i]) for i in range(30)]
    assert len(lines(log)) == 30


def test_a_worker_told_to_stop_hands_over_what_only_it_has(three, tmp_path):
    cluster, client = three
    log = str(tmp_path / "log")
    futures = [client.submit(make, log, i) for i in range(30)]
    assert wait(futures, 60).not_done == set()
    cluster.scale(1)
    until(lambda: list(cluster.workers) == ["w0"])
    assert [value[:1] for value in client.gather(futures, timeout=60)] == [bytes([i]) for i in range(30)]
    assert len(lines(log)) == 30


# ---- between hosts ---------------------------------------------------------------------------------


def test_over_tcp_to_many_consumers(tmp_path):
    with LocalCluster(n_workers=1) as cluster, contextlib.ExitStack() as stack, Client(cluster.address) as client:
        for i in range(3):
            stack.enter_context(far_worker(cluster, f"far{i}"))
        client.wait_for_workers(4, 60)
        large = client.submit(os.urandom, 30_000_000, workers=["w0"])
        digests = [client.submit(hash, large, workers=[f"far{i}"]) for i in range(3)]
        assert client.submit(len, large, workers=["far0"]).result(60) == 30_000_000
        assert len(client.gather(digests, timeout=60)) == 3
        until(lambda: len(holders(client, large)) == 4)
        made = client.submit(os.urandom, 5_000_000, workers=["far1"])
        assert len(made.result(60)) == 5_000_000


def test_copies_go_to_other_hosts_first():
    with LocalCluster(n_workers=2) as cluster, far_worker(cluster, "far"), Client(cluster.address) as client:
        client.wait_for_workers(3, 60)
        for _ in range(5):
            future = client.scatter(os.urandom(100_000))
            assert "far" in holders(client, future)
            del future


# ---- replay policies -------------------------------------------------------------------------------


def test_verify_names_both_attempts_of_an_impure_task(three):
    cluster, client = three
    impure = client.submit(os.urandom, 50_000, replay="verify", key="impure")
    pure = client.submit(bytes, 50_000, replay="verify")
    wait([impure, pure], 60)
    kill_all(cluster, {*holders(client, impure), *holders(client, pure)})
    assert client.submit(len, pure).result(60) == 50_000
    with pytest.raises(errors.NonDeterministicReplay, match=r"attempt [0-9a-f]+ had .* attempt [0-9a-f]+ on w"):
        client.submit(len, impure).result(60)


def test_never_is_announced_with_two_copies_and_not_run_twice(three, tmp_path):
    cluster, client = three
    log = str(tmp_path / "log")
    future = client.submit(make, log, 1, replay="never", key="once")
    wait([future], 60)
    assert len(holders(client, future)) == 2
    first, second = holders(client, future)
    cluster.kill_worker(first, wipe=True)
    assert future.result(60)[:1] == b"\1"
    until(lambda: len(holders(client, future)) == 2 and client.status()["workers"].keys() >= set(cluster.workers))
    kill_all(cluster)
    with pytest.raises(errors.DataLost, match="never"):
        client.submit(len, future).result(60)
    assert len(lines(log)) == 1 and second != first


def test_who_has_seen_a_value_sees_no_other(three):
    cluster, client = three
    future = client.submit(os.urandom, 50_000)
    future.result(60)
    cluster.kill_worker(holders(client, future)[0], wipe=True)
    after = client.submit(len, future)
    assert after.result(60) == 50_000
    with pytest.raises(errors.NonDeterministicReplay, match="differs from the one that this client has seen"):
        future.result(60)


# ---- checkpoints ------------------------------------------------------------------------------------


def checkpointed(client, log):
    base = client.submit(make, log, 1, key="base")
    return client.submit(lambda data: data + b"!", base, checkpoint=True, key="kept"), base


def test_a_checkpoint_outlives_every_worker_and_the_cluster(tmp_path):
    log, store = str(tmp_path / "log"), str(tmp_path / "checkpoints")
    for run in (1, 2):
        with LocalCluster(n_workers=2, checkpoint_store=store) as cluster, Client(cluster.address) as client:
            future, base = checkpointed(client, log)
            assert future.result(60)[-1:] == b"!" and len(lines(log)) == run
            del base
            kill_all(cluster)
            assert client.submit(len, future).result(60) == 200_001
            assert len(lines(log)) == run  # its lineage was cut
    assert len(os.listdir(store)) == 1
    with LocalCluster(n_workers=1) as cluster, Client(cluster.address) as client:
        assert "--checkpoint-store" in str(client.submit(abs, -1, checkpoint=True).exception(60))


def test_a_checkpoint_store_that_can_not_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with LocalCluster(n_workers=1, checkpoint_store=str(tmp_path / "file")) as cluster, Client(cluster.address) as client:
        with pytest.raises(errors.StoreError, match="checkpoint"):
            client.submit(abs, -1, checkpoint=True, key="x").result(60)
        with pytest.raises(errors.StoreError):
            client.submit(abs, -1, checkpoint=True, key="y").result(60)
        assert client.submit(abs, -2).result(60) == 2


def test_checkpoints_in_s3(tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    for name, value in {
        "FSSPEC_S3_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def is_there():
            with contextlib.suppress(OSError):
                return urllib.request.urlopen(f"{url}/moto-api/", timeout=5).status == 200
            return False

        until(is_there)
        request = urllib.request.Request(f"{url}/results", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        log = str(tmp_path / "log")
        for run in (1, 2):
            with LocalCluster(n_workers=1, checkpoint_store="s3://results/a") as cluster, Client(cluster.address) as client:
                future, _ = checkpointed(client, log)
                assert future.result(120)[-1:] == b"!" and len(lines(log)) == run
    finally:
        server.terminate()
        server.wait(30)


# ---- bad input ------------------------------------------------------------------------------------


def test_a_full_store_goes_to_disk_and_a_full_disk_is_the_task_s_error(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount small file systems")
    small, tiny = tmp_path / "small", tmp_path / "tiny"
    mounted = []
    try:
        for path, size in ((small, "3m"), (tiny, "6m")):
            path.mkdir()
            if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=False).returncode:
                pytest.skip("file systems can't be mounted here")
            mounted.append(path)
        folders = ("--store", f"{small}/w", "--spill", f"{tiny}/w")
        with LocalCluster(n_workers=0) as cluster, Client(cluster.address) as client, far_worker(cluster, "w", *folders):
            client.wait_for_workers(1, 60)
            one = client.submit(os.urandom, 2_000_000)
            two = client.submit(os.urandom, 4_000_000)  # no room in the store: to disk
            assert len(one.result(60)) == 2_000_000 and len(two.result(60)) == 4_000_000
            with pytest.raises(errors.StoreError, match="No space left"):
                client.submit(os.urandom, 5_000_000).result(60)
            with pytest.raises(errors.StoreError, match="No space left"):
                client.submit(len, os.urandom(5_000_000)).result(60)
            assert client.submit(abs, -1).result(60) == 1 and len(one.result(60)) == 2_000_000
            del one, two
            until(lambda: client.workers()["w"].keys == 0)
            assert len(client.submit(os.urandom, 2_000_000).result(60)) == 2_000_000
    finally:
        for path in mounted:
            subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_store_that_is_deleted_while_in_use(three):
    cluster, client = three
    futures = [client.submit(os.urandom, 100_000) for _ in range(20)]
    wait(futures, 60)
    shutil.rmtree(stores(cluster) / "w0")
    assert client.gather([client.submit(len, one) for one in futures], timeout=60) == [100_000] * 20


def test_objects_that_can_not_be_scattered(three):
    _, client = three
    with open(os.devnull) as stream, pytest.raises(errors.SerializationError, match="open file"):
        client.scatter([1, stream])
    with pytest.raises(ValueError, match="replicas"):
        client.scatter(1, replicas=0)


def test_what_dead_processes_have_left_is_removed_and_named_stores_are_not(tmp_path):
    spill = tmp_path / "spill"
    for name in ("unnamed-x-1", "client-abc", "cluster-def", "named"):
        (spill / name).mkdir(parents=True)
        Store(str(tmp_path / "root" / name)).close()
        write_file(str(tmp_path / "root" / name), 1, 5, [b"x"])
    alive = Store(str(tmp_path / "root" / "unnamed-alive"))
    (tmp_path / "root" / "cluster-just-made").mkdir()
    assert sorted(remove_leftovers(str(tmp_path / "root"), str(spill))) == ["client-abc", "cluster-def", "unnamed-x-1"]
    assert sorted(os.listdir(tmp_path / "root")) == ["cluster-just-made", "named", "unnamed-alive"]
    assert os.listdir(spill) == ["named"]
    alive.close()


def test_saving_a_store_leaves_nothing_behind(tmp_path):
    mine, theirs = (Store(str(tmp_path / name), str(tmp_path / f"{name}-spill")) for name in ("mine", "theirs"))
    for attempt in (5, 6, 7, 8):
        size, digest = write_file(theirs.path, 1, attempt, [b"x" * 10_000])
    assert mine.link(theirs.path, Stored(1, 5, size, digest)) and mine.link(theirs.path, Stored(1, 5, size, digest))
    assert mine.link(theirs.path, Stored(1, 6, size, digest))
    mine.spill(6)  # ours is on disk, theirs in memory
    theirs.spill(7)
    theirs.close()
    dead, stored, spilled, _ = mine.rescue(theirs.path)
    assert dead and sorted(one.attempt for one in stored) == [5, 6, 7, 8] and sorted(spilled) == [6, 7]
    assert os.listdir(theirs.path) == [".lock"] and not os.listdir(theirs.spill_path)
    mine.delete([5, 6, 7, 8])
    assert os.listdir(mine.path) == [".lock"] and not os.listdir(mine.spill_path)
    mine.destroy()


def test_scatter_from_many_threads_and_of_one_content_leaves_nothing(three):
    _, client = three
    data = os.urandom(50_000)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        futures = list(pool.map(lambda _: client.scatter(data, hash=True), range(12)))
    folder = pathlib.Path(client._session._supplier._folder)
    assert {future.result(60) for future in futures} == {data}
    del futures
    until(lambda: [path.name for path in folder.iterdir()] == [".lock"])
    mine = folder.parent
    client.close()
    assert not folder.exists() and mine.exists()


def test_a_consumer_that_can_not_store_its_input_harms_no_copy(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("file systems can't be mounted here")
    try:
        folders = ("--store", f"{small}/w", "--spill", f"{small}/spill")
        with LocalCluster(n_workers=2) as cluster, far_worker(cluster, "far", *folders), Client(cluster.address) as client:
            client.wait_for_workers(3, 60)
            log = str(tmp_path / "log")
            value = client.submit(make, log, 1, 5_000_000, replay="never", workers=["w0", "w1"])
            wait([value], 60)
            with pytest.raises(errors.StoreError, match="No space left"):
                client.submit(len, value, workers=["far"]).result(60)
            assert len(value.result(60)) == 5_000_000 and lines(log) == ["1"]
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
