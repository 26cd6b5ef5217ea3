"""Commands that run a cluster from a shell: ``twistdist ssh``, ``slurm`` and ``kubernetes``."""

from __future__ import annotations

import argparse
import shlex
import signal
import time
from collections.abc import Callable
from typing import Any

from twistdist.config import load_secret

#: Seconds between two looks at a cluster.
LOOK_S = 0.5

#: The options of ``slurm`` that are text, as those of a SlurmCluster; and the names of all that it takes.
_SLURM_OPTIONS = {
    "partition": "the partition",
    "account": "the account that is charged",
    "time": "limit of each job's time, as for Slurm: 1:30:00, 2-12, or minutes",
    "cpus": "CPUs of each job",
    "memory": "memory of each job, such as 8G",
    "gres": "generic resources of each job, such as gpu:1",
    "python": "the Python interpreter on the nodes [this one]",
    "folder": "where secrets and output of jobs are, on a file system shared with the nodes [~/.local/state/twistdist/slurm]",
    "name": "what the names of the jobs begin with [twistdist]",
    "host": "the name or address at which nodes reach this machine [its name]",
    "journal": "file of the scheduler's journal [one that is removed at the end]",
    "http": "where to serve the live page, such as tcp:8787:interface=127.0.0.1",
}
_SLURM = (*_SLURM_OPTIONS, "slots", "signal", "poll", "directives", "prologue", "worker_options")

#: The same of ``kubernetes``.
_KUBERNETES_OPTIONS = {
    "namespace": "where the pods run [that of the context]",
    "context": "the context of the kubeconfig [its current one]",
    "kubeconfig": "the kubeconfig file [$KUBECONFIG, ~/.kube/config]",
    "cpu": "processors of each worker, such as 2 or 500m",
    "memory": "memory of each worker, such as 8Gi",
    "pod-template": "YAML file with anything else of a worker's pod",
    "service-account": "the pods' service account",
    "service": "how the scheduler is reached: ClusterIP (from pods only), LoadBalancer or NodePort [ClusterIP]",
    "journal": "where the scheduler's state is kept: volume, postgresql://… or none [volume]",
    "storage": "size of that volume [1Gi]",
    "storage-class": "its storage class",
    "name": "what the names of the pods begin with [twistdist]",
}


def add_cluster_commands(commands: Any) -> None:
    """Add the commands to the subparsers of ``twistdist``."""
    ssh = commands.add_parser("ssh", help="run a cluster on hosts that are reached by ssh, until interrupted")
    _add_ssh(ssh)
    ssh.set_defaults(run=_ssh)
    slurm = commands.add_parser("slurm", help="run a scheduler here, and workers as jobs of Slurm")
    _add_slurm(slurm)
    slurm.set_defaults(run=_slurm)
    kubernetes = commands.add_parser("kubernetes", help="run a scheduler and workers as pods of Kubernetes")
    _add_kubernetes(kubernetes)
    kubernetes.set_defaults(run=_kubernetes)


def count_of(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer >= 1")
    return int(text)


def _secret_of(options: argparse.Namespace) -> bytes:
    return load_secret(options.secret_file)


def _add_slurm(slurm: argparse.ArgumentParser) -> None:
    slurm.add_argument("workers", type=count_of, metavar="N", help="the number of workers, each of which is one job")
    for option, text in _SLURM_OPTIONS.items():
        slurm.add_argument(f"--{option}", help=text, type=count_of if option == "cpus" else str)
    slurm.add_argument("--slots", type=count_of, help="tasks that each worker runs at a time [the CPUs of its job]")
    slurm.add_argument("--signal", type=float, help="seconds before the end of its time at which a job gets SIGTERM too [none]")
    slurm.add_argument("--poll", type=float, help="seconds between two calls of squeue [15]")
    for option, name, text in (
        ("directive", "directives", "one more line as after #SBATCH, such as --directive=--constraint=ib"),
        ("prologue", "prologue", "a line of bash to run before Python, such as 'module load python'"),
        ("worker-option", "worker_options", "one more word for every worker, such as --worker-option=--lifetime-stagger=600"),
    ):
        slurm.add_argument(f"--{option}", dest=name, action="append", help=f"{text}; may be given several times")
    slurm.add_argument("--secret-file", metavar="FILE", help="the shared secret [default: $TWISTDIST_SECRET_FILE]")


def _add_kubernetes(kubernetes: argparse.ArgumentParser) -> None:
    kubernetes.add_argument("workers", type=count_of, metavar="N", help="the number of workers, each of which is one pod")
    kubernetes.add_argument("--image", required=True, help="the image of all pods, with Python and twistdist as here")
    for option, text in _KUBERNETES_OPTIONS.items():
        kubernetes.add_argument(f"--{option}", help=text)
    kubernetes.add_argument("--gpus", type=count_of, help="GPUs of each worker [none]")
    kubernetes.add_argument("--slots", type=count_of, help="tasks that each worker runs at a time [its processors]")
    kubernetes.add_argument("--grace", type=count_of, help="seconds that a worker has between SIGTERM and SIGKILL [30]")
    for option, name, text in (
        ("node-selector", "node_selector", "KEY=VALUE of the nodes to use"),
        ("env", "env", "NAME=VALUE for the environment of the processes"),
    ):
        what = f"{text}; may be given several times"
        kubernetes.add_argument(f"--{option}", dest=name, type=_pair, action="append", metavar="PAIR", help=what)
    kubernetes.add_argument("--secret-file", metavar="FILE", help="the shared secret [default: $TWISTDIST_SECRET_FILE]")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _kubernetes(options: argparse.Namespace) -> int:
    from twistdist.blocking import KubernetesCluster

    names = [*(name.replace("-", "_") for name in _KUBERNETES_OPTIONS), "gpus", "slots", "grace"]
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    given |= {name: dict(value) for name in ("node_selector", "env") if (value := getattr(options, name)) is not None}
    return _hold(lambda: KubernetesCluster(options.workers, image=options.image, secret=_secret_of(options), **given))


def _add_ssh(ssh: argparse.ArgumentParser) -> None:
    ssh.add_argument("hosts", nargs="*", metavar="HOST", help="as for ssh: host, user@host, host:port, or an alias")
    ssh.add_argument("--workers", type=count_of, help="worker processes [one for each host]")
    ssh.add_argument("--slots", type=count_of, help="tasks that each worker runs at a time [its host's processors]")
    ssh.add_argument("--memory-limit", metavar="SIZE", help="memory of each worker [0.8 of its host's]")
    ssh.add_argument(
        "--python", metavar="PATH", help="the interpreter on the hosts [the path of this one, or python3.X, python3]"
    )
    ssh.add_argument("--scheduler-host", metavar="HOST", help='where the scheduler runs; "local": here [the first host]')
    ssh.add_argument("--contact", metavar="NAME", help="where everybody reaches the scheduler's host [found by trying]")
    ssh.add_argument("--folder", metavar="DIR", help="folder on the hosts for files [~/.cache/twistdist]")
    ssh.add_argument("--grace", type=float, help="seconds that processes go on when this program is cut off [30]")
    ssh.add_argument("--http", metavar="ENDPOINT", help="where the scheduler serves its live page")
    ssh.add_argument("--journal", metavar="FILE", help="the scheduler's journal, on its host [one that goes with the cluster]")
    ssh.add_argument("--name", help="what the cluster's name begins with [twistdist]")
    ssh.add_argument("--ssh-config", "-F", dest="config", metavar="FILE", help="ssh's configuration file")
    ssh.add_argument(
        "--ssh-option", "-o", dest="ssh_options", metavar="OPTION", action="append", default=[], help="an option as for ssh -o"
    )
    ssh.add_argument("--detach", action="store_true", help="leave the cluster running and exit")
    ssh.add_argument("--end", metavar="NAME", help="end a cluster that was left running")


def _ssh(options: argparse.Namespace) -> int:
    if options.end is not None:
        return _end_ssh(options.end)
    from twistdist.blocking import SSHCluster

    words = [
        *(["-F", options.config] if options.config else []),
        *(word for one in options.ssh_options for word in ("-o", one)),
    ]
    names = ("slots", "memory_limit", "python", "scheduler_host", "contact", "folder", "grace", "http", "journal", "name")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        with SSHCluster(options.hosts, options.workers, ssh_options=words, detach=options.detach, **given) as cluster:
            print(f"cluster {cluster.cluster_name}: {', '.join(sorted(cluster.workers.values()))}")
            print("In the shells that use it:")
            print(f"export TWISTDIST_SCHEDULER={shlex.quote(cluster.address)}")
            print(f"export TWISTDIST_SECRET_FILE={shlex.quote(cluster.secret_file)}")
            print(f"export TWISTDIST_TLS={shlex.quote(cluster.tls)}")
            if cluster.dashboard_link:
                print(f"page {cluster.dashboard_link}")
            if options.detach:
                print(f"It stays.  To end it: twistdist ssh --end {cluster.cluster_name}", flush=True)
                return 0
            print("Ctrl-C ends it.", flush=True)
            while not cluster.ended:
                time.sleep(LOOK_S)
            print(f"It has ended: {cluster.ended}")
    except KeyboardInterrupt:
        print("ended")
    return 0


def _end_ssh(name: str) -> int:
    from twisted.internet.defer import Deferred

    from twistdist.blocking.reactor_thread import get_reactor_thread
    from twistdist.clusters.ssh.cluster import end_detached

    thread = get_reactor_thread()
    ended = thread.call(lambda: Deferred.fromCoroutine(end_detached(thread.reactor, name)))
    print(f"{name}: {len(ended)} processes ended")
    return 0


def _slurm(options: argparse.Namespace) -> int:
    from twistdist.blocking import SlurmCluster

    given = {name: getattr(options, name) for name in _SLURM if getattr(options, name) is not None}
    return _hold(lambda: SlurmCluster(options.workers, secret=_secret_of(options), **given))


def _hold(start: Callable[[], Any]) -> int:
    """Start a cluster of jobs, say how to reach it, and stay until it ends, or until Ctrl-C or SIGTERM ends it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with start() as cluster:
            print(f"twistdist cluster ready at {cluster.address}; Ctrl-C ends it")
            print(
                f"export TWISTDIST_SCHEDULER={shlex.quote(cluster.address)} TWISTDIST_TLS={shlex.quote(cluster.tls)}",
                flush=True,
            )
            shown: dict[str, str] = {}
            while True:
                jobs = cluster.jobs
                for id, state in jobs.items():
                    if shown.get(id) != state:
                        print(f"job {id}: {state}", flush=True)
                shown = jobs
                ended = cluster.ended
                if ended:
                    print(f"the cluster has ended: {ended}")
                    return 0
                time.sleep(LOOK_S)
    except KeyboardInterrupt:
        print("all jobs were told to end")
        return 0
