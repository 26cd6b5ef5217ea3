"""Clusters of pods, against an API server and a node that runs pods as processes."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest
from twisted.internet.defer import Deferred

kubernetes = pytest.importorskip("kubernetes")
pytest.importorskip("kubernetes_validate")

import yaml  # noqa: E402

from tests.clusters.kube_api import ApiServer  # noqa: E402
from tests.clusters.kubelet import IMAGE, REPOSITORY, Forwarder, Kubelet, can_run_pods  # noqa: E402
from tests.clusters.real_api import RealApi, assets  # noqa: E402
from tests.integration.habits import until  # noqa: E402
from tests.integration.test_twistd import Shell  # noqa: E402
from twistdist.blocking import Client, KubernetesCluster  # noqa: E402
from twistdist.clusters import kubernetes as engine_module  # noqa: E402
from twistdist.errors import ConfigError, TwistdistError  # noqa: E402

why_not = can_run_pods()


def runs_pods(test):
    return pytest.mark.slow(pytest.mark.skipif(bool(why_not), reason=why_not)(test))


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    real = RealApi(tmp_path_factory.mktemp("api"))
    yield real
    real.close()


@pytest.fixture(params=["memory", "real"])
def any_api(request):
    """The real API server where its binaries are, and always the one in memory."""
    if request.param == "real":
        if assets() is None:
            pytest.skip("the binaries of the API server are not in $KUBEBUILDER_ASSETS")
        yield request.getfixturevalue("real")
        return
    api = ApiServer()
    yield api
    api.close()


@pytest.fixture
def api(request):
    if "any_api" in request.fixturenames:
        yield request.getfixturevalue("any_api")
        return
    api = ApiServer()
    yield api
    api.close()


@pytest.fixture
def options(api, tmp_path):
    return {"image": IMAGE, "kubeconfig": kubeconfig(tmp_path, api.url)}


def kubeconfig(folder, url, token="admin", namespace="default"):
    file = folder / f"kubeconfig-{token}-{namespace}"
    context = {"cluster": "test", "user": "me", "namespace": namespace}
    trust = {"certificate-authority": str(RealApi.ca)} if RealApi.ca and url == RealApi.at else {}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": context}],
        "clusters": [{"name": "test", "cluster": {"server": url, **trust}}],
        "users": [{"name": "me", "user": {"token": token}}],
    }
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def node(api, tmp_path):
    node = Kubelet(api.url, tmp_path / "node", context=getattr(api, "context", None))
    api.logs = node.log
    yield node
    node.close()
    assert not node.errors


def allow(api, user, role):
    """Give a user the rights of a role, and no others."""
    if isinstance(api, ApiServer):
        allowed = {(verb, kind) for rule in role["rules"] for kind in rule["resources"] for verb in rule["verbs"]}
        api.users[user] = allowed
        return
    group, path = "rbac.authorization.k8s.io", "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    made = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": user}, "rules": role["rules"]}
    api.get(f"{path}/roles", "POST", made)
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": user},
        "subjects": [{"kind": "User", "name": user, "apiGroup": group}],
    }
    api.get(f"{path}/rolebindings", "POST", binding)


def no_pods_allowed(api):
    if isinstance(api, ApiServer):
        api.quota = 0
        return
    made = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": {"pods": "0"}}}
    path = "/api/v1/namespaces/default/resourcequotas"
    api.get(path, "POST", made)
    until(lambda: "hard" in json.loads(api.get(f"{path}/small"))["status"])


def everything(api, namespace="default"):
    return [name for kind in ("pods", "secrets", "services", "persistentvolumeclaims") for name in api.names(kind, namespace)]


@runs_pods
def test_pods(any_api, api, node, options):
    with KubernetesCluster(2, service="NodePort", slots=1, **options) as cluster, Client(cluster) as client:
        client.wait_for_workers(2, 60)
        assert client.gather(client.map(pow, range(50), [2] * 50)) == [i * i for i in range(50)]
        until(lambda: set(cluster.jobs.values()) == {"running"})
        assert sorted(cluster.logs()) == ["scheduler", "w0", "w1"]
        assert cluster.logs()["w0"][0].startswith("twistdist worker w0 ready")
        assert client.submit(os.getuid).result() == 10001
        with pytest.raises(OSError, match="Read-only"):
            client.submit(os.mkdir, "/twistdist").result()
        assert client.submit(os.access, "/etc/twistdist/key.pem", os.W_OK).result() is False
        cluster.scale(1)
        until(lambda: len(node.running("-w")) == 1)
        client.wait_for_workers(1, 60)
    until(lambda: not everything(api))
    until(lambda: not node.running())


@runs_pods
def test_the_scheduler_may_end_and_move(any_api, api, node, options):
    with KubernetesCluster(1, service="NodePort", slots=1, **options) as cluster, Client(cluster) as client:
        futures = client.map(time.sleep, [0.05] * 40)
        node.kill("scheduler")
        assert client.gather(futures, timeout=60) == [None] * 40
        (old,) = node.running("scheduler")
        assert node.pods[old].restarts == 1  # the same pod
        futures = client.map(time.sleep, [0.05] * 40, pure=False)
        node.call("DELETE", f"pods/{old}")  # its node is drained
        assert client.gather(futures, timeout=60) == [None] * 40
        assert node.running("scheduler") not in ([], [old])
    until(lambda: not everything(api))


@runs_pods
def test_a_worker_that_ends_is_replaced_and_heard_of(any_api, api, node, options, caplog):
    with KubernetesCluster(1, service="NodePort", slots=1, **options) as cluster, Client(cluster) as client:
        client.wait_for_workers(1, 60)
        until(lambda: cluster.workers)
        old = node.kill("-w0-", reason="OOMKilled")
        until(lambda: cluster.workers.get("w0") not in (None, old))
        assert client.submit(pow, 2, 5).result(60) == 32
        until(lambda: old not in api.names("pods"))
    assert any(f"(job {old}: exit status 137 (OOMKilled)" in line for line in caplog.messages)


@runs_pods
def test_everything_goes_with_its_owner(any_api, api, node, options):
    with KubernetesCluster(1, service="NodePort", slots=1, **options) as cluster:
        until(lambda: len(node.running()) == 2)
        (secret,) = api.names("secrets")
        node.call("DELETE", f"secrets/{secret}")
        until(lambda: not everything(api))
        until(lambda: not node.running())
        del cluster


@runs_pods
def test_from_a_shell(api, node, options, tmp_path):
    words = ("kubernetes", "1", "--image", IMAGE, "--kubeconfig", str(options["kubeconfig"]), "--service", "NodePort")
    words += ("--slots", "1", "--env", "COLOUR=blue")
    shell = Shell(tmp_path, sys.executable, "-u", "-m", "twistdist.cli", *words)
    try:
        shell.wait_for("^job .*: running")
        environment = dict(re.findall(r"(TWISTDIST_\w+)=(\S+)", "".join(shell.lines)))
        with Client(environment["TWISTDIST_SCHEDULER"], tls=environment["TWISTDIST_TLS"]) as client:
            assert client.submit(colour).result(60) == "blue"
    finally:
        shell.end(signal.SIGINT)
    assert "all jobs were told to end\n" in shell.lines
    until(lambda: not everything(api))


def colour():
    return os.environ["COLOUR"]


@runs_pods
def test_a_program_in_a_pod(api, node, tmp_path):
    node.call("POST", "pods", program())
    until(lambda: node.running("program"))
    port = int(api.url.rpartition(":")[2])
    forwarder = Forwarder((node.node_ip, port))
    forwarder.target = ("127.0.0.1", port)
    config = kubeconfig(tmp_path, f"http://{node.node_ip}:{port}")
    script = f"""
        from twistdist.blocking import Client, KubernetesCluster
        with KubernetesCluster(2, image="{IMAGE}", kubeconfig="{config}", slots=1) as cluster, Client(cluster) as client:
            print(cluster.address)
            print(sum(client.gather(client.map(pow, range(100), [2] * 100))))
    """
    inside = f"mount --bind {node.folder}/etc /etc && exec {sys.executable} -c '{textwrap.dedent(script)}'"
    net = node.pods["program"].net
    command = ["nsenter", f"--net=/run/netns/{net}", "unshare", "-m", "sh", "-c", inside]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": REPOSITORY}, capture_output=True, text=True, timeout=120)
    forwarder.close()
    assert done.stderr == ""
    address, answer = done.stdout.split()
    assert address.startswith("tls:twistdist-") and address.endswith(".default.svc:8786") and answer == "328350"
    node.call("DELETE", "pods/program")
    until(lambda: not everything(api))


def program():
    security = {"runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["sleep", "600"],
        "env": [],
        "resources": {},
        "volumeMounts": [],
        "securityContext": {"readOnlyRootFilesystem": True},
    }
    spec = {"restartPolicy": "Never", "securityContext": security, "containers": [container], "volumes": []}
    metadata = {"name": "program", "labels": {}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@runs_pods
def test_a_program_outside_is_told_how_to_reach_the_scheduler(api, node, options):
    with pytest.raises(TwistdistError, match=r"known only inside .* run it in a pod, or give service='LoadBalancer'"):
        KubernetesCluster(1, **options)
    until(lambda: not everything(api))


@runs_pods
def test_an_image_that_can_not_be_pulled(any_api, api, node, options):
    options["image"] = "registry.example/nosuch:1"
    with pytest.raises(TwistdistError, match=r"scheduler .* image registry.example/nosuch:1 can't be pulled: ImagePullBackOff"):
        KubernetesCluster(1, **options)
    until(lambda: not everything(api))


@runs_pods
def test_an_image_of_workers_that_can_not_be_pulled_is_heard_of(api, node, options, caplog, monkeypatch):
    monkeypatch.setattr(engine_module, "STUCK_S", 0.5)
    options["image"] = "registry.example/nosuch:1"
    with KubernetesCluster(1, scheduler_in_cluster=False, host=node.node_ip, **options) as cluster:
        until(lambda: any("image registry.example/nosuch:1 can't be pulled" in line for line in caplog.messages))
        until(lambda: len(node.pods) >= 2)  # it is tried again
        assert len(api.names("pods")) <= 2
        del cluster
    until(lambda: not everything(api))


@runs_pods
def test_no_node_has_room(any_api, api, node, options):
    with KubernetesCluster(1, service="NodePort", cpu=100, **options) as cluster, Client(cluster) as client:
        expected = {"waiting: Unschedulable: 0/1 nodes are available: 1 Insufficient cpu."}
        until(lambda: set(cluster.jobs.values()) == expected)
        cluster.scale(0)
        until(lambda: not cluster.jobs)
        assert client.workers() == {}
    until(lambda: not everything(api))


@runs_pods
def test_nothing_is_concluded_while_the_api_server_does_not_answer(api, node, options, caplog, monkeypatch):
    monkeypatch.setattr(engine_module, "REQUEST_S", 0.2)
    monkeypatch.setattr(engine_module, "LONGEST_PAUSE_S", 0.1)
    with KubernetesCluster(1, service="NodePort", slots=1, **options) as cluster, Client(cluster) as client:
        client.wait_for_workers(1, 60)
        before = node.running()
        api.hang.set()
        until(lambda: any("does not answer (list pods)" in line for line in caplog.messages))
        assert client.submit(pow, 2, 5).result() == 32
        api.hang.clear()
        cluster.scale(2)
        client.wait_for_workers(2, 60)
        assert set(before) < set(node.running())


@runs_pods
def test_a_busy_api_server_is_asked_again(api, node, options):
    api.troubles = [(429, {"Retry-After": "1"}), (503, {}), (500, {}), (504, {})]
    with KubernetesCluster(1, service="NodePort", slots=1, **options) as cluster, Client(cluster) as client:
        client.wait_for_workers(1, 60)
        api.troubles = [(503, {})] * 3
        cluster.scale(2)
        client.wait_for_workers(2, 60)
    assert not api.troubles


@runs_pods
def test_long_lists_come_in_pages(api, node, options, monkeypatch):
    monkeypatch.setattr(engine_module, "PAGE", 2)
    with KubernetesCluster(4, service="NodePort", slots=1, **options) as cluster, Client(cluster) as client:
        client.wait_for_workers(4, 60)
        until(lambda: len(cluster.workers) == 4)
        api.compacted = True  # the second page has become too old
        until(lambda: not api.compacted)
        asked = len(api.requests)
        until(lambda: len(api.requests) > asked + 6)
        assert len(node.running("-w")) == len(client.workers()) == 4


# ---- what does not need pods ------------------------------------------------------------------


def test_a_user_without_rights_is_told_which(any_api, api, tmp_path):
    allow(api, "viewer", {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]})
    config = kubeconfig(tmp_path, api.url, "viewer")
    with pytest.raises(
        TwistdistError, match=r"not allowed to create secrets in namespace 'default': .*; a Role needs pods: create"
    ):
        KubernetesCluster(1, image=IMAGE, kubeconfig=config)
    allow(api, "nobody", {"rules": []})
    with pytest.raises(TwistdistError, match="not allowed to list pods"):
        KubernetesCluster(1, image=IMAGE, kubeconfig=kubeconfig(tmp_path, api.url, "nobody"))
    with pytest.raises(TwistdistError, match="does not accept the credentials of this user"):
        KubernetesCluster(1, image=IMAGE, kubeconfig=kubeconfig(tmp_path, api.url, "stranger"))
    assert not everything(api)


@runs_pods
def test_the_role_in_the_repository_is_enough(any_api, api, node, tmp_path):
    role = yaml.safe_load((pathlib.Path(REPOSITORY) / "deploy" / "kubernetes" / "role.yaml").read_text())
    allow(api, "owner", role)
    config = kubeconfig(tmp_path, api.url, "owner")
    with KubernetesCluster(1, service="NodePort", image=IMAGE, kubeconfig=config) as cluster, Client(cluster) as client:
        client.wait_for_workers(1, 60)
        assert cluster.logs()["w0"]
    until(lambda: not everything(api))


def test_a_namespace_that_does_not_exist(any_api, api, options):
    with pytest.raises(
        TwistdistError, match=r"namespace 'nosuch' does not exist; create it with: kubectl create namespace nosuch"
    ):
        KubernetesCluster(1, namespace="nosuch", **options)


def test_a_quota(any_api, api, options):
    no_pods_allowed(api)
    with pytest.raises(TwistdistError, match=r"the quota of namespace 'default' does not allow it: .*exceeded quota"):
        KubernetesCluster(1, **options)
    if not isinstance(api, ApiServer):
        api.get("/api/v1/namespaces/default/resourcequotas/small", "DELETE")
    until(lambda: not everything(api))


def test_an_api_server_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "LONGEST_PAUSE_S", 0.1)
    config = kubeconfig(tmp_path, "http://127.0.0.1:9")
    with pytest.raises(
        TwistdistError, match=r"the Kubernetes API server at http://127.0.0.1:9 does not answer \(list pods\): .*refused"
    ):
        KubernetesCluster(1, image=IMAGE, kubeconfig=config)


def test_no_kubeconfig(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nosuch"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(TwistdistError, match=r"no Kubernetes cluster is known: .*a kubeconfig is needed"):
        KubernetesCluster(1, image=IMAGE, kubeconfig=tmp_path / "nosuch")
    config = kubeconfig(tmp_path, "http://127.0.0.1:9")
    with pytest.raises(TwistdistError, match="the kubeconfig has no context 'there'; it has: here"):
        KubernetesCluster(1, image=IMAGE, kubeconfig=config, context="there")


def test_no_package(monkeypatch):
    monkeypatch.setattr(engine_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'twistdist\[kubernetes\]'"):
        KubernetesCluster(1, image=IMAGE)


def test_no_yaml(monkeypatch, tmp_path):
    """Once that was a ModuleNotFoundError."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match=r"pod_template: PyYAML.* run: pip install 'twistdist\[kubernetes\]'"):
        KubernetesCluster(1, image=IMAGE, pod_template=tmp_path / "pod.yaml")


NODES = [
    {"status": {"addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.0.0.1"}]}},
    {"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.2"}, {"type": "ExternalIP", "address": "fd00::2"}]}},
]


@pytest.mark.parametrize(
    ("nodes", "address"),
    [
        (NODES, r"tls:10.0.0.2:30001,tls:fd00\:\:2:30001,tls:10.0.0.1:30001"),
        (engine_module._Refused("not allowed to list nodes"), "tls:10.0.0.2:30001"),
    ],
)
def test_the_address_of_a_port_of_all_nodes_names_several(nodes, address):
    """Once it named one node, and the cluster could not be reached any more when that was gone."""
    engine = engine_module.KubernetesCluster(1, image=IMAGE, service="NodePort")._engine
    engine.cluster, engine.namespace = "ours-1234", "default"
    engine._core = SimpleNamespace(read_namespaced_service=None, list_node=None)

    async def ask(what, method, *args, **options):
        if what == "get services":
            return {"spec": {"ports": [{"nodePort": 30001}]}}
        if isinstance(nodes, Exception):
            raise nodes
        return {"items": nodes}

    engine._ask = ask
    found = []
    Deferred.fromCoroutine(engine._outside({"status": {"hostIP": "10.0.0.2"}})).addCallback(found.append)
    assert found == [address]


def test_bad_options(api, options, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("spec: [")
    for given, error, text in (
        ({"cpu": "many"}, ValueError, "cpu must be a number"),
        ({"cpu": -1}, ValueError, "cpu"),
        ({"cpu": True}, TypeError, "cpu"),
        ({"memory": "much"}, ConfigError, "memory"),
        ({"gpus": -1}, ValueError, "gpus"),
        ({"service": "Ingress"}, ValueError, "ClusterIP, LoadBalancer, NodePort"),
        ({"journal": "state.sqlite"}, ValueError, "postgresql://"),
        ({"image_pull_secrets": "one"}, TypeError, "list of names"),
        ({"pod_template": broken}, ConfigError, "pod_template"),
        ({"pod_template": tmp_path / "nosuch.yaml"}, ConfigError, "nosuch.yaml"),
        ({"pod_template": {"containers": []}}, ConfigError, "metadata and spec"),
        ({"env": ["A=1"]}, TypeError, "env"),
        ({"grace": 0}, ValueError, "grace"),
        ({"nosuch": 1}, TypeError, "nosuch"),
    ):
        with pytest.raises(error, match=text):
            KubernetesCluster(1, **options | given)
    assert not api.requests
