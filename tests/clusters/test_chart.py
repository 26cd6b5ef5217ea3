"""The Helm chart: rendered and installed by Helm in a real API server, and run by a node that runs pods as processes."""

import asyncio
import json
import pathlib
import re
import shutil
import time

import pytest

pytest.importorskip("kubernetes")
helm = pytest.importorskip("helm_sdkpy", reason="Helm is not installed: pip install helm-sdkpy, for Python 3.12")

from tests.clusters.kubelet import REPOSITORY, Kubelet, can_run_pods  # noqa: E402
from tests.clusters.real_api import RealApi, assets  # noqa: E402
from tests.integration.habits import until  # noqa: E402
from twistdist.blocking import Client  # noqa: E402
from twistdist.net.certs import make_certificates  # noqa: E402

CHART = pathlib.Path(REPOSITORY) / "deploy" / "kubernetes" / "chart"
SECRET = "a secret of sixteen bytes"

why_not = can_run_pods() or ("" if assets() else "the binaries of the API server are not in $KUBEBUILDER_ASSETS")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not), reason=why_not)]


def slow(i):
    time.sleep(0.02)
    return bytes([i]) * 10_000


def test_the_chart(tmp_path):
    api = RealApi(tmp_path)
    node = Kubelet(api.url, tmp_path / "node", context=api.context)
    try:
        tls = tmp_path / "tls"
        make_certificates(tls)
        files = {name: (tls / name).read_text() for name in ("ca.pem", "cert.pem", "key.pem")} | {"secret": SECRET}
        node.call(
            "POST", "secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "twistdist"}, "stringData": files}
        )
        values = {
            "image": {"tag": "test"},
            "scheduler": {"service": {"type": "NodePort"}},
            "workers": {"slots": 1, "store": {"spill": {"persistent": True}}},
        }
        # An API server that was built from sources need not know its version.
        chart = tmp_path / "chart"
        shutil.copytree(CHART, chart)
        (chart / "Chart.yaml").write_text(re.sub("kubeVersion:.*\n", "", (chart / "Chart.yaml").read_text()))
        configuration = helm.Configuration(namespace="default", kubeconfig=str(tmp_path / "controllers.json"))
        install = helm.Install(configuration).run("tw", str(chart), values=values, wait=False, disable_openapi_validation=False)
        assert asyncio.run(install)["info"]["status"] == "deployed"
        until(lambda: len(node.running()) == 3)
        service = json.loads(api.get("/api/v1/namespaces/default/services/tw-twistdist-scheduler"))
        address = f"tls:{node.node_ip}:{service['spec']['ports'][0]['nodePort']}"
        with Client(address, secret=SECRET, tls=tls) as client:
            client.wait_for_workers(2, 60)
            assert sorted(client.workers()) == ["tw-twistdist-worker-0", "tw-twistdist-worker-1"]
            futures = client.map(slow, range(60))
            assert client.gather(futures) == [bytes([i]) * 10_000 for i in range(60)]
            for killed in ("worker-0", "worker-1", "scheduler-0"):
                node.kill(killed)
            until(lambda: all(node.pods[name].restarts == 1 for name in node.running()) and len(node.running()) == 3)
            client.wait_for_workers(2, 60)
            assert client.gather(futures, timeout=60) == [bytes([i]) * 10_000 for i in range(60)]
            assert not [incident for incident in client.incidents(600) if incident.kind == "replay"]
    finally:
        node.close()
        api.close()
    assert not node.errors
