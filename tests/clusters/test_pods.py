"""The objects of Kubernetes, and what is made of their states: pure functions."""

import base64
import re

import pytest

validate = pytest.importorskip("kubernetes_validate").validate

from twistdist.clusters import pods  # noqa: E402
from twistdist.clusters.engine import FOLDER, Job, JobState  # noqa: E402

CLUSTER = "My_Cluster.1-0a1b2c3d"
FILES = {"secret": b"s" * 16, "ca.pem": b"ca", "cert.pem": b"cert", "key.pem": b"key"}
SCHEDULER = Job("scheduler", "scheduler", ("--listen", "tcp:0:interface=0.0.0.0", "--journal", "x", "--tls", FOLDER), FILES)
WORKER = Job("w0", "worker", ("tls:a:1", "--name", "w0", "--resources=A=$(B)", "--tls", FOLDER), FILES)
OWNER = pods.owner_of({"kind": "Secret", "metadata": {"name": "x", "uid": "1-2"}})


def made(job=WORKER, journal="volume", **shape):
    return pods.pod(CLUSTER, job, f"x-{job.name}", pods.Shape("image:1", **shape), journal, OWNER)


@pytest.mark.parametrize("version", ["1.25", "1.30", "1.33"])
def test_objects_are_as_the_schemas_of_kubernetes_say(version):
    shape = {
        "limits": {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"},
        "scheduler_requests": {"cpu": "500m"},
        "service_account": "me",
        "image_pull_secrets": ["registry"],
        "node_selector": {"zone": "a"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "env": {"A": "1"},
        "worker_template": {"spec": {"priorityClassName": "batch"}},
    }
    objects = [made(WORKER, **shape), *(made(SCHEDULER, journal, **shape) for journal in ("volume", "address", "none"))]
    objects += [pods.secret(CLUSTER, FILES, OWNER), pods.claim(CLUSTER, "1Gi", "fast", None)]
    objects += [pods.service(CLUSTER, kind, OWNER) for kind in ("ClusterIP", "LoadBalancer", "NodePort")]
    for found in objects:
        validate(found, version, strict=True)


def test_names_are_what_kubernetes_allows():
    names = [pods.slug_of(name + "-0a1b2c3d") for name in (CLUSTER, "a", "_", "9", "x" * 50, "A.b_C")]
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name) and name.endswith("-0a1b2c3d") for name in names)


def test_nothing_of_a_pod_is_more_than_it_needs():
    for job in (WORKER, SCHEDULER):
        spec = made(job)["spec"]
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"] == {
            "type": "RuntimeDefault"
        }
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert spec["automountServiceAccountToken"] is False
        assert not any(base64.b64encode(content).decode() in str(spec) for content in FILES.values())


def test_the_journal_s_password_is_not_in_the_pod():
    container = made(SCHEDULER, "address")["spec"]["containers"][0]
    assert "$(JOURNAL_ADDRESS)" in container["command"]
    assert {
        "name": "JOURNAL_ADDRESS",
        "valueFrom": {"secretKeyRef": {"name": pods.slug_of(CLUSTER), "key": pods.JOURNAL_KEY}},
    } in (container["env"])


def test_what_users_write_is_not_expanded():
    assert "--resources=A=$$(B)" in made()["spec"]["containers"][0]["command"]


def test_a_template_is_merged():
    template = {
        "metadata": {"labels": {"team": "x"}},
        "spec": {
            "securityContext": {"runAsUser": None},
            "containers": [
                {"name": "twistdist", "env": [{"name": "HOME", "value": "/home"}]},
                {"name": "beside", "image": "other"},
            ],
            "tolerations": [{"key": "b"}],
        },
    }
    found = made(worker_template=template, tolerations=[{"key": "a"}])
    main, beside = found["spec"]["containers"]
    assert found["metadata"]["labels"]["team"] == "x" and found["metadata"]["labels"][pods.ROLE] == "worker"
    assert "runAsUser" not in found["spec"]["securityContext"] and found["spec"]["securityContext"]["runAsNonRoot"]
    assert main["image"] == "image:1" and {"name": "HOME", "value": "/home"} in main["env"] and len(main["env"]) == 3
    assert beside["image"] == "other" and found["spec"]["tolerations"] == [{"key": "b"}]


def pod(phase, container=None, deleted=False, **status):
    state = [] if container is None else [{"image": "image:1", "state": container}]
    metadata = {"name": "x"} | ({"deletionTimestamp": "now"} if deleted else {})
    return {
        "metadata": metadata,
        "spec": {"nodeName": "node-1"},
        "status": {"phase": phase, "containerStatuses": state, **status},
    }


def terminated(code, reason="Error", message=""):
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


@pytest.mark.parametrize(
    ("found", "phase", "why"),
    [
        (pod("Pending"), "waiting", "node node-1 has not started it yet"),
        (pod("Pending", {"waiting": {"reason": "ContainerCreating"}}), "waiting", "ContainerCreating"),
        (
            pod("Pending", {"waiting": {"reason": "ErrImagePull", "message": "not\nfound"}}),
            "waiting",
            "image image:1 can't be pulled: ErrImagePull: not found",
        ),
        (pod("Running"), "running", ""),
        (pod("Running", deleted=True), "running", "it is being deleted"),
        (pod("Unknown"), "running", "its node node-1 does not answer"),
        (pod("Running", reason="NodeLost", deleted=True), "running", "its node node-1 does not answer"),
        (pod("Failed", terminated(1, message="twistdist: bad\nsecret")), "ended", "exit status 1: twistdist: bad secret"),
        (pod("Failed", terminated(137, "OOMKilled")), "ended", "exit status 137 (OOMKilled)"),
        (pod("Failed", reason="Evicted", message="low on memory"), "ended", "Evicted: low on memory"),
        (pod("Failed", terminated(143), reason="DeadlineExceeded"), "ended", "DeadlineExceeded; exit status 143"),
        (pod("Failed", reason="NodeLost", message="gone"), "ended", "NodeLost: gone; on node node-1"),
        (pod("Failed"), "ended", "it failed, and Kubernetes gives no reason"),
    ],
)
def test_states(found, phase, why):
    assert pods.state_of(found) == JobState(phase, why)


def test_a_pod_that_succeeded_ended_in_order():
    assert pods.state_of(pod("Succeeded", terminated(0, "Completed"))) == JobState("ended", "", True)
    assert pods.state_of({"metadata": {"name": "x"}}).phase == "waiting"  # it was just made


def node(*addresses, ready="True"):
    found = [{"type": "InternalIP", "address": address} for address in addresses]
    return {"status": {"addresses": found, "conditions": [{"type": "Ready", "status": ready}]}}


def test_the_addresses_of_nodes():
    assert pods.node_addresses("a", []) == ["a"]
    assert pods.node_addresses("a", [{}, node("b"), node("a", "x")]) == ["a", "x", "b"]
    assert pods.node_addresses("a", [node("b", ready="Unknown"), node("c")]) == ["a", "c"]
    assert pods.node_addresses("a", [node(f"n{number}") for number in range(500)]) == ["a", "n0", "n1", "n2"]
