"""A node for tests: binds the pods of an API server to itself and runs each as a process of this machine.

A pod has mounts of its own (the Secret's files with the modes and groups that a kubelet gives them, its volumes, a read-only
root), the user of its security context, no capabilities, and a network namespace with an address of its own.  The names of
Services are in its /etc/hosts.  This takes root.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from twistdist.net.certs import make_certificates

#: The network of the pods: addresses that are meant for tests (RFC 2544).
NETWORK, BRIDGE = f"198.18.{os.getpid() % 250}", f"tdk{os.getpid() % 250}"
IMAGE = "registry.example/twistdist:test"
NODE, CORES = "node-1", 8
#: The home of root, who runs this, is hidden from pods.
HOME = os.path.expanduser("~root")

REPOSITORY = str(pathlib.Path(__file__).parents[2])


def can_run_pods():
    """Return why this machine can't run pods, or ""."""
    if os.geteuid() != 0:
        return "pods are run in namespaces, which takes root"
    if not all(map(shutil.which, ("unshare", "nsenter", "setpriv", "mount", "ip"))):
        return "unshare, nsenter, setpriv, mount and ip are needed"
    for command in ("unshare -m mount --make-rprivate /", "unshare -n ip link add tdk type bridge"):
        done = subprocess.run(command.split(), capture_output=True, text=True)
        if done.returncode:
            return f"no namespaces: {done.stderr}"
    return ""


def ip(*commands):
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


class Running:
    """A pod that has been seen."""

    def __init__(self, ip, folder):
        self.ip, self.net = ip, f"{BRIDGE}-{ip.rpartition('.')[2]}"
        self.folder = folder
        self.process = None
        self.killed_at = None
        self.reason = None  # why its process was killed
        self.restarts = 0
        self.started_at = 0.0
        self.status = None  # as reported last


class Kubelet:
    """``forwarded`` are ports of the node (Services of type NodePort): port -> address."""

    def __init__(self, url, folder, token="kubelet", namespace="default", context=None):
        self.url, self.folder, self.token, self.namespace = url, pathlib.Path(folder), token, namespace
        self._context = context  # of TLS: with it, the API server is a real one
        self.pods = {}
        self.node_ip = f"{NETWORK}.1"
        ip(f"link add {BRIDGE} type bridge", f"link set {BRIDGE} up", f"addr add {self.node_ip}/24 dev {BRIDGE}")
        self.unschedulable = False
        self.errors = []
        self._forwarders = {}
        self._ending = threading.Event()
        etc = self.folder / "etc"
        shutil.copytree("/etc", etc, symlinks=True, ignore=lambda folder, names: {"shadow", "gshadow"} & set(names))
        for name in ("twistdist",):
            (etc / name).mkdir(exist_ok=True)
        self._logs = None
        if context is not None:
            self._register()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _register(self):
        """Be a node that serves logs."""
        make_certificates(self.folder / "tls", [self.node_ip])
        handler = type("Logs", (_Logs,), {"node": self})
        self._logs = ThreadingHTTPServer((self.node_ip, 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "tls" / "cert.pem", self.folder / "tls" / "key.pem")
        self._logs.socket = context.wrap_socket(self._logs.socket, server_side=True)
        threading.Thread(target=self._logs.serve_forever, kwargs={"poll_interval": 0.05}).start()
        with contextlib.suppress(urllib.error.HTTPError):
            self.call("POST", "/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        status = {"addresses": [{"type": "InternalIP", "address": self.node_ip}]}
        status["daemonEndpoints"] = {"kubeletEndpoint": {"Port": self._logs.server_port}}
        self.call("PATCH", f"/nodes/{NODE}/status", {"status": status})

    def close(self):
        self._ending.set()
        self._thread.join()
        if self._logs is not None:
            self._logs.shutdown()
            self._logs.server_close()
        for pod in self.pods.values():
            if pod.process is not None and pod.process.poll() is None:
                pod.process.kill()
                pod.process.wait()
            ip(f"netns del {pod.net}")
        for forwarder in self._forwarders.values():
            forwarder.close()
        ip(f"link del {BRIDGE}")

    def running(self, part=""):
        return sorted(
            name for name, pod in list(self.pods.items()) if part in name and pod.process and pod.process.poll() is None
        )

    def kill(self, part, number=signal.SIGKILL, reason=None):
        """Kill the process of the pod whose name has ``part`` in it; ``reason`` is what the pod's status will say."""
        (name,) = self.running(part)
        self.pods[name].reason = reason
        self.pods[name].process.send_signal(number)
        return name

    def log(self, name):
        pod = self.pods.get(name)
        path = pod.folder / "log" if pod else None
        return path.read_text(errors="replace") if path and path.exists() else ""

    # ---- the API ------------------------------------------------------------------------------

    def call(self, verb, path, body=None):
        where = path if path.startswith("/") else f"/namespaces/{self.namespace}/{path}"
        request = urllib.request.Request(f"{self.url}/api/v1{where}", method=verb)
        request.add_header("Authorization", f"Bearer {self.token}")
        request.add_header("Content-Type", "application/merge-patch+json" if verb == "PATCH" else "application/json")
        with urllib.request.urlopen(
            request, None if body is None else json.dumps(body).encode(), timeout=10, context=self._context
        ) as answer:
            return json.load(answer)

    def _run(self):
        while not self._ending.is_set():
            try:
                self._hosts()
                pods = self.call("GET", "pods")["items"]
                for found in pods:
                    try:
                        self._look(found["metadata"]["name"], found)
                    except urllib.error.HTTPError as error:
                        if error.code != 404:  # it was deleted meanwhile
                            raise
                names = {found["metadata"]["name"] for found in pods}
                for name, pod in self.pods.items():
                    if name not in names and pod.process is not None and pod.process.poll() is None:
                        pod.process.kill()
                        pod.process.wait()
            except OSError as error:
                self.errors.append(repr(error))
            self._ending.wait(0.05)

    def _hosts(self):
        """Name resolution inside, and the ports of the node."""
        lines = ["127.0.0.1 localhost"]
        for service in self.call("GET", "services")["items"]:
            name = service["metadata"]["name"]
            ip = self._ip_of(service["spec"].get("selector") or {"nobody": ""})
            if ip:
                lines.append(f"{ip} {name}.{self.namespace}.svc {name}")
                for port in service["spec"]["ports"]:
                    if port.get("nodePort"):
                        forwarder = self._forwarders.get(port["nodePort"])
                        if forwarder is None:
                            forwarder = self._forwarders[port["nodePort"]] = Forwarder((self.node_ip, port["nodePort"]))
                        forwarder.target = (ip, port["port"])
        text = "\n".join(lines) + "\n"
        hosts = self.folder / "etc" / "hosts"
        if hosts.read_text() != text:
            hosts.write_text(text)

    def _ip_of(self, selector):
        for found in self.call("GET", "pods")["items"]:
            labels, name = found["metadata"].get("labels", {}), found["metadata"]["name"]
            running = name in self.pods and found.get("status", {}).get("phase") == "Running"
            if running and all(labels.get(key) == value for key, value in selector.items()):
                return self.pods[name].ip
        return None

    # ---- a pod --------------------------------------------------------------------------------

    def _report(self, name, pod, **status):
        if status != pod.status:
            pod.status = status
            self.call("PATCH", f"pods/{name}/status", {"status": status})

    def _look(self, name, found):
        spec, container = found["spec"], found["spec"]["containers"][0]
        pod = self.pods.get(name)
        if pod is None:
            folder = self.folder / name
            folder.mkdir()
            number = len(self.pods) + 2
            pod = self.pods[name] = Running(f"{NETWORK}.{number}", folder)
            ip(f"netns add {pod.net}", f"link add {BRIDGE}v{number} type veth peer name eth0 netns {pod.net}")
            ip(f"link set {BRIDGE}v{number} master {BRIDGE} up", f"-n {pod.net} addr add {pod.ip}/24 dev eth0")
            ip(f"-n {pod.net} link set eth0 up", f"-n {pod.net} link set lo up")
        deleted = "deletionTimestamp" in found["metadata"]
        cores = container.get("resources", {}).get("requests", {}).get("cpu", "0")
        if not spec.get("nodeName"):
            if self.unschedulable or (cores.isdigit() and int(cores) > CORES):
                why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
                why["message"] = "0/1 nodes are available: 1 Insufficient cpu."
                self._report(name, pod, phase="Pending", conditions=[why])
                return
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            self.call("POST", f"pods/{name}/binding", {"metadata": {"name": name}, "target": target})
        if found.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            if deleted:
                self._gone(name)
            return
        if pod.process is None:
            if deleted:
                self._gone(name)
            elif container["image"] != IMAGE:
                message = f'Back-off pulling image "{container["image"]}"'
                waiting = {"reason": "ImagePullBackOff", "message": message}
                self._report(name, pod, phase="Pending", containerStatuses=[self._container(found, {"waiting": waiting})])
            else:
                self._start(name, pod, found)
            return
        status = pod.process.poll()
        if status is None:
            if deleted and pod.killed_at is None:
                pod.killed_at = time.monotonic() + found["metadata"]["deletionGracePeriodSeconds"]
                pod.process.terminate()
            elif pod.killed_at is not None and time.monotonic() > pod.killed_at:
                pod.process.kill()
            ready = str(self._is_ready(pod, container))
            self._report(
                name,
                pod,
                phase="Running",
                podIP=pod.ip,
                hostIP=self.node_ip,
                conditions=[{"type": "Ready", "status": ready}],
                containerStatuses=[self._container(found, {"running": {}}, pod.restarts)],
            )
            return
        if deleted:
            self._gone(name)
            return
        code = status if status >= 0 else 128 - status
        if spec["restartPolicy"] == "Always" or (spec["restartPolicy"] == "OnFailure" and code):
            if time.monotonic() < pod.started_at + 1.0:
                return  # a real one waits longer
            pod.restarts += 1
            self._start(name, pod, found)
            return
        ended = {"exitCode": code, "reason": pod.reason or ("Completed" if code == 0 else "Error")}
        if code and container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            ended["message"] = self.log(name)[-2048:]
        self._report(
            name,
            pod,
            phase="Failed" if code else "Succeeded",
            containerStatuses=[self._container(found, {"terminated": ended}, pod.restarts)],
        )

    @staticmethod
    def _container(found, state, restarts=0):
        container = found["spec"]["containers"][0]
        ready = "running" in state
        return {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": ready,
            "restartCount": restarts,
            "state": state,
        }

    def _gone(self, name):
        self.call("DELETE", f"pods/{name}", {"gracePeriodSeconds": 0})

    def _is_ready(self, pod, container):
        probe = container.get("readinessProbe")
        if probe is None:
            return True
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        try:
            if "tcpSocket" in probe:
                socket.create_connection((pod.ip, named.get(probe["tcpSocket"]["port"], probe["tcpSocket"]["port"])), 2).close()
                return True
            port = named.get(probe["httpGet"]["port"], probe["httpGet"]["port"])
            url = f"http://{pod.ip}:{port}{probe['httpGet']['path']}"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def _start(self, name, pod, found):
        spec, container = found["spec"], found["spec"]["containers"][0]
        security, group = spec["securityContext"], spec["securityContext"]["fsGroup"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        # The interpreter and this repository stay where they are, although other things hide what is around them.
        kept = dict.fromkeys((REPOSITORY, sys.prefix, sys.base_prefix))
        binds = [(path, path) for path in kept if path.startswith(tuple(f"{folder}/" for folder in ("/tmp", HOME)))]
        script = ["mount --make-rprivate /", "mount -t tmpfs none /mnt"]
        covered = [f"mount --bind {self.folder}/etc /etc", "mount -t tmpfs -o mode=755 none /var/lib"]
        covered += [f"mount -t tmpfs -o mode=755 none {HOME}", "mkdir /var/lib/twistdist"]
        for volume in spec["volumes"]:
            there = mounts[volume["name"]]
            if "secret" in volume:
                source = self._secret(pod, volume["secret"], group)
            elif "persistentVolumeClaim" in volume:
                source = self.folder / "claims" / volume["persistentVolumeClaim"]["claimName"]
                self.call("GET", f"persistentvolumeclaims/{source.name}")
            else:
                source = pod.folder / volume["name"]
            if "secret" not in volume:
                source.mkdir(parents=True, exist_ok=True)
                os.chown(source, 0, group)
                source.chmod(0o2775)
            binds.append((str(source), there))
        binds.sort(key=lambda bind: bind[1])  # what is in /tmp comes after /tmp
        for number, (source, _) in enumerate(binds):
            script += [f"mkdir /mnt/{number}", f"mount --bind {source} /mnt/{number}"]
        script += covered
        for number, (_, there) in enumerate(binds):
            script += [f"mkdir -p {there}", f"mount --move /mnt/{number} {there}"]
        if container["securityContext"]["readOnlyRootFilesystem"]:
            script.append("mount -o remount,ro,bind /")
        user = f"--reuid={security['runAsUser']} --regid={security['runAsGroup']} --groups={group}"
        words = [self._expanded(word, pod, container) for word in container["command"]]
        words = [sys.executable if word == "python" else word for word in words]
        drop = "--no-new-privs --inh-caps=-all --bounding-set=-all"
        script.append(f"exec setpriv {user} {drop} {shlex.join(words)}")
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": REPOSITORY, "TWISTDIST_HOST": name}
        environment |= {entry["name"]: self._value(entry, pod) for entry in container["env"]}
        with open(pod.folder / "log", "ab") as log:
            command = ["nsenter", f"--net=/run/netns/{pod.net}", "unshare", "-m", "sh", "-ec", "\n".join(script)]
            pod.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd="/")
        pod.killed_at, pod.started_at = None, time.monotonic()

    def _secret(self, pod, volume, group):
        folder = pod.folder / "secret"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o750)
        os.chown(folder, 0, group)
        data = self.call("GET", f"secrets/{volume['secretName']}")["data"]
        for item in volume["items"]:
            file = folder / item["path"]
            file.touch(mode=0o600)
            file.write_bytes(base64.b64decode(data[item["key"]]))
            os.chown(file, 0, group)
            file.chmod(volume["defaultMode"] | 0o440)
        return folder

    def _value(self, entry, pod):
        if "value" in entry:
            return entry["value"]
        source = entry["valueFrom"]
        if "fieldRef" in source:
            return {"status.podIP": pod.ip, "metadata.name": pod.folder.name}[source["fieldRef"]["fieldPath"]]
        key = source["secretKeyRef"]
        return base64.b64decode(self.call("GET", f"secrets/{key['name']}")["data"][key["key"]]).decode()

    def _expanded(self, word, pod, container):
        known = {entry["name"]: entry for entry in container["env"]}

        def put_in(found):
            if found[0].startswith("$$"):
                return found[0][1:]
            return self._value(known[found[1]], pod) if found[1] in known else found[0]

        return re.sub(r"\$?\$\(([A-Za-z_][A-Za-z0-9_]*)\)", put_in, word)


class _Logs(BaseHTTPRequestHandler):
    """What a kubelet answers to ``kubectl logs``."""

    node: Kubelet

    def log_message(self, *args):
        pass

    def do_GET(self):
        url = urlsplit(self.path)
        text = self.node.log(url.path.split("/")[3])  # /containerLogs/NAMESPACE/POD/CONTAINER
        tail = int(parse_qs(url.query).get("tailLines", ["1000"])[0])
        content = "".join(text.splitlines(keepends=True)[-tail:]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Forwarder:
    """What kube-proxy does for a port of the node."""

    def __init__(self, address):
        self.target = None
        self._listening = socket.create_server(address)
        self._open, self._threads = set(), []
        self._start(self._accept)

    def _start(self, function, *args):
        self._threads.append(threading.Thread(target=function, args=args))
        self._threads[-1].start()

    def close(self):
        for side in (self._listening, *list(self._open)):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            self._start(self._connect, near)

    def _connect(self, near):
        with near, contextlib.suppress(OSError), socket.create_connection(self.target, 5) as far:
            far.settimeout(None)
            self._open |= {near, far}
            back = threading.Thread(target=self._copy, args=(far, near))
            back.start()
            self._copy(near, far)
            back.join()
            self._open -= {near, far}

    @staticmethod
    def _copy(one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for side in (one, other):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
