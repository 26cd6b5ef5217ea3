"""The real API server, with etcd and the controllers, if their binaries are in ``$KUBEBUILDER_ASSETS`` (as for envtest).

The folder has ``etcd``, ``kube-apiserver`` and ``kube-controller-manager``; there is no kubelet and no scheduler, which
:mod:`.kubelet` stands in for.  docs/contributing.rst says how to build them from Debian's sources.
"""

from __future__ import annotations

import json
import os
import pathlib
import socket
import ssl
import subprocess
import time
import urllib.request

WANTED = ("etcd", "kube-apiserver", "kube-controller-manager")


def assets():
    """Return the folder of the binaries, or None."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    return folder if folder and all(os.access(pathlib.Path(folder) / name, os.X_OK) for name in WANTED) else None


def _free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


class RealApi:
    """As ``kube_api.ApiServer``, as far as that goes: ``url``, ``names``, ``close``."""

    at, ca = "", None  # of the one that runs

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.logs = None  # the real one asks the node
        binaries = pathlib.Path(assets())
        client, peer, port = _free_ports(3)
        self.url = f"https://127.0.0.1:{port}"
        self.context = ssl._create_unverified_context()
        key = self.folder / "sa.key"
        self._call("openssl", "genrsa", "-out", str(key), "2048")
        self._call("openssl", "rsa", "-in", str(key), "-pubout", "-out", str(self.folder / "sa.pub"))
        tokens = self.folder / "tokens.csv"
        privileged = "".join(f"{name},{name},{name},system:masters\n" for name in ("admin", "kubelet"))
        tokens.write_text(privileged + "".join(f"{name},{name},{name}\n" for name in ("viewer", "owner", "nobody")))
        etcd = f"http://127.0.0.1:{client}"
        self._processes = [
            self._start(
                binaries / "etcd",
                f"--data-dir={self.folder}/etcd",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                "--unsafe-no-fsync",
            ),
            self._start(
                binaries / "kube-apiserver",
                f"--etcd-servers={etcd}",
                f"--secure-port={port}",
                "--bind-address=127.0.0.1",
                f"--cert-dir={self.folder}/certs",
                f"--token-auth-file={tokens}",
                "--authorization-mode=RBAC",
                f"--service-account-key-file={self.folder}/sa.pub",
                f"--service-account-signing-key-file={key}",
                "--service-account-issuer=https://test.example",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--disable-admission-plugins=ServiceAccount",
            ),
        ]
        self._wait("/readyz")
        config = self.folder / "controllers.json"
        user = {"name": "me", "user": {"token": "admin"}}
        cluster = {"name": "here", "cluster": {"server": self.url, "insecure-skip-tls-verify": True}}
        context = {"name": "here", "context": {"cluster": "here", "user": "me"}}
        content = {"users": [user], "clusters": [cluster], "contexts": [context], "current-context": "here"}
        config.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **content}))
        self._processes.append(
            self._start(
                binaries / "kube-controller-manager",
                f"--kubeconfig={config}",
                "--controllers=garbagecollector,pvc-protection,resourcequota,statefulset,disruption,namespace,endpoint",
                "--leader-elect=false",
                "--port=0",
                "--secure-port=0",
            )
        )
        self._wait("/api/v1/namespaces/default")
        RealApi.at, RealApi.ca = self.url, self.folder / "certs" / "apiserver.crt"

    def _call(self, *command):
        subprocess.run(command, check=True, capture_output=True)

    def _start(self, program, *options):
        with open(self.folder / f"{program.name}.log", "wb") as log:
            return subprocess.Popen([program, *options], stdout=log, stderr=log)

    def _wait(self, path):
        late = time.monotonic() + 120
        while True:
            try:
                return self.get(path)
            except OSError:
                if time.monotonic() > late or any(process.poll() is not None for process in self._processes):
                    raise
                time.sleep(0.2)

    def get(self, path, verb="GET", body=None):
        request = urllib.request.Request(self.url + path, method=verb, headers={"Authorization": "Bearer admin"})
        request.add_header("Content-Type", "application/json")
        content = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(request, content, context=self.context, timeout=10) as answer:
            return answer.read()

    def names(self, resource, namespace="default"):
        items = json.loads(self.get(f"/api/v1/namespaces/{namespace}/{resource}"))["items"]
        return sorted(item["metadata"]["name"] for item in items if item["metadata"]["name"] != "kubernetes")

    def close(self):
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            process.wait()
