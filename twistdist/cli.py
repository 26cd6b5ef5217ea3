"""The ``twistdist`` command."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import datetime
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import attrs

import twistdist
from twistdist.chaos.command import add_chaos_command
from twistdist.clusters.commands import add_cluster_commands, count_of
from twistdist.config import load_secret
from twistdist.display import printable
from twistdist.errors import ClientClosed, TwistdistError
from twistdist.interfaces import ago

#: Seconds between two questions of ``incidents --follow``.
FOLLOW_S = 0.5


def _demo(options: argparse.Namespace) -> int:
    from twistdist import demo

    kill = 0 if options.no_kill else options.kill
    report = demo.run(options.workers, kill, options.seed, options.wipe, options.files)
    print(report)
    return 0 if report.right else 1


def _secret(options: argparse.Namespace) -> bytes | None:
    return None if options.secret_file is None else load_secret(options.secret_file)


def _status(options: argparse.Namespace) -> int:
    from twistdist.blocking import Client

    with Client(options.address, secret=_secret(options), tls=options.tls, timeout=options.timeout) as client:
        status = client.status(options.timeout)
        incidents = client.incidents(timeout=options.timeout)
    if options.json:
        print(json.dumps({**status, "incidents": [attrs.asdict(one) for one in incidents[-options.incidents :]]}, default=str))
        return 0
    tasks = ", ".join(f"{count} {state}" for state, count in sorted(status["tasks"].items())) or "none"
    _print(f"scheduler {options.address}, epoch {status['epoch']}")
    _print(f"tasks     {tasks}; {status['done']} executed, {status['failed']} failed, {status['replays']} replayed")
    for lack, count in sorted(status["lacks"].items()):
        _print(f"waiting   {count} tasks: {lack}")
    _print(f"journal   {_journal_line(status['journal'])}")
    if status["recovering"] is not None:
        _print(f"recovering: waiting for {', '.join(status['recovering'])}")
    _print(f"sessions  {status['sessions']['connected'] - 1} connected besides this one, {status['sessions']['away']} away")
    for name, count in sorted(status["sessions"]["durable"].items()):
        _print(f"session   {name}: keeps {count} tasks")
    if status["datasets"]:
        _print(f"published {', '.join(status['datasets'])}")
    if status["suspects"]:
        _print(f"suspects  {', '.join(status['suspects'])}")
    for name, info in sorted(status["workers"].items()):
        _print(
            f"worker    {name}: {info['state']}, {info['running']} of {info['slots']} slots busy, {info['queued']} queued, "
            f"{info['keys']} results of {info['memory']} bytes, pid {info['pid']} at {info['address']}"
        )
        for trouble in info["troubles"][-3:]:
            _print(f"          {trouble}")
    for incident in incidents[-options.incidents :]:
        _print(
            f"incident  {ago(incident.age)}: {incident.kind}, {incident.what}: {incident.cause}{_cost(attrs.asdict(incident))}"
        )
    return 0


def _print(text: str) -> None:
    """Print what may have names of users in it."""
    print(printable(text))


def _cost(incident: dict[str, Any]) -> str:
    """What recovery cost, without what is zero."""
    parts = [f"{incident[name]} {name}" for name in ("requeued", "lost", "replayed", "adopted") if incident[name]]
    return f"; {', '.join(parts)}" if parts else ""


def _incidents(options: argparse.Namespace) -> int:
    from twistdist.blocking import Client

    with (
        contextlib.suppress(KeyboardInterrupt),  # the usual way to end --follow
        Client(options.address, secret=_secret(options), tls=options.tls, timeout=options.timeout) as client,
    ):
        epoch, since = None, None
        while True:
            try:
                snapshot = _snapshot(client, since, options.timeout)
                if snapshot["epoch"] != epoch and since is not None:  # another scheduler, with another clock
                    snapshot = _snapshot(client, None, options.timeout)
            except (TwistdistError, concurrent.futures.TimeoutError) as error:
                if not options.follow or epoch is None or isinstance(error, ClientClosed):
                    raise
                time.sleep(FOLLOW_S)  # the scheduler is away, or was restarted before it answered
                continue
            epoch, since = snapshot["epoch"], snapshot["since"]
            for incident in snapshot["incidents"]:
                _print_incident(incident, time.time() - (snapshot["now"] - incident["at"]), options.json)
            if not options.follow:
                break
            time.sleep(FOLLOW_S)
    return 0


def _top(options: argparse.Namespace) -> int:
    from twistdist.top.terminal import run

    with contextlib.suppress(KeyboardInterrupt):  # before the first frame
        run(options.address, _secret(options), options.tls, options.timeout, options.once)
    return 0


def _snapshot(client: Any, since: float | None, timeout: float) -> dict[str, Any]:
    """What the live page shows; not part of the public API."""
    found: dict[str, Any] = client._call(lambda: client._session._query("snapshot", since), timeout)
    return found


def _print_incident(incident: dict[str, Any], at: float, as_json: bool) -> None:
    when = datetime.datetime.fromtimestamp(at, datetime.timezone.utc).astimezone()
    if as_json:
        print(json.dumps({"time": when.isoformat(timespec="milliseconds"), **{k: v for k, v in incident.items() if k != "at"}}))
    else:
        text = f"{incident['kind']}, {incident['what']}: {incident['cause']}{_cost(incident)}"
        print(f"{when:%Y-%m-%d %H:%M:%S}  {printable(text)}")
    sys.stdout.flush()


def _journal_line(journal: dict[str, Any]) -> str:
    if journal["state"] == "none":
        return "none: the scheduler's state is lost when its process ends (see --journal)"
    if journal["state"] == "failing":
        return f"FAILING, nothing is accepted: {journal['error']}"
    return (
        f"ok, {journal['bytes']} bytes, last write {1e3 * journal['write']:.1f} ms, "
        f"{journal['waiting']} messages waiting for {1e3 * journal['lag']:.1f} ms"
    )


def _journal(options: argparse.Namespace) -> int:
    from twistdist.storage.inspection import describe

    for line in describe(options.path, options.full):
        print(line)
    return 0


def _clear(options: argparse.Namespace) -> int:
    from twistdist.client import clear

    gone = clear(options.address, secret=_secret(options), timeout=options.timeout, tls=options.tls, sessions=options.session)
    print(f"{gone['sessions']} sessions of absent clients and {gone['tasks']} tasks dropped")
    return 0


def _retire(options: argparse.Namespace) -> int:
    from twistdist.blocking import Client

    with Client(options.address, secret=_secret(options), tls=options.tls, timeout=options.timeout) as client:
        client.retire_workers(options.names, options.patience)
    print(f"{', '.join(options.names)}: retired, what only they held was handed over")
    return 0


def _why(options: argparse.Namespace) -> int:
    from twistdist.blocking import Client

    with Client(options.address, secret=_secret(options), tls=options.tls, timeout=options.timeout) as client:
        found = client.why(options.key, options.timeout)
    if found is None:
        print(f"twistdist: no task has the key {options.key!r}", file=sys.stderr)
        return 1
    print("\n".join(printable(line) for line in str(found).split("\n")))
    return 0


def _certs(options: argparse.Namespace) -> int:
    from twistdist.net.certs import make_certificates

    new = make_certificates(options.directory, options.hosts)
    print(f"{options.directory}: {'made a new CA and' if new else 'kept the existing CA and made'} a new certificate")
    print("Every process needs ca.pem, cert.pem and key.pem (--tls, tls=, TWISTDIST_TLS).  Keep ca-key.pem here.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="twistdist", description="Distributed tasks that bring their results back.")
    parser.add_argument("--version", action="version", version=f"twistdist {twistdist.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="compute on a cluster on this machine while its workers are killed")
    demo.add_argument("--workers", type=count_of, default=2, help="worker processes [%(default)s]")
    demo.add_argument("--kill", type=count_of, default=1, help="how many times a worker is killed [%(default)s]")
    demo.add_argument("--no-kill", action="store_true", help="kill no worker")
    demo.add_argument("--wipe", action="store_true", help="delete a killed worker's stored results too")
    demo.add_argument("--seed", type=int, help="seed for choosing which workers are killed, and when")
    demo.add_argument("--files", type=count_of, help="read only this many files")
    demo.set_defaults(run=_demo)

    status = commands.add_parser("status", help="show what a cluster is doing")
    status.add_argument("--incidents", type=count_of, default=10, help="how many of the latest incidents to show [%(default)s]")
    status.add_argument("--json", action="store_true", help="print everything as one JSON object")
    status.set_defaults(run=_status)
    incidents = commands.add_parser("incidents", help="show the faults that were noticed, and what recovery cost")
    incidents.add_argument("--follow", action="store_true", help="go on with those that come, until interrupted")
    incidents.add_argument("--json", action="store_true", help="print one JSON object for each")
    incidents.set_defaults(run=_incidents)
    top = commands.add_parser("top", help="watch what a cluster is doing; q or Ctrl-C ends it")
    top.add_argument("--once", action="store_true", help="show one frame and end, as without a terminal")
    top.set_defaults(run=_top)
    clear = commands.add_parser("clear", help="drop what no connected client needs")
    clear.set_defaults(run=_clear)
    retire = commands.add_parser("retire", help="have workers hand over what only they hold, then end")
    retire.set_defaults(run=_retire)
    why = commands.add_parser("why", help="show what is known about one task")
    why.set_defaults(run=_why)
    journal = commands.add_parser("journal", help="show what is in a journal")
    journal.add_argument("path", help="the file, or postgresql://…, given as --journal; it may be in use")
    journal.add_argument("--full", action="store_true", help="show a line for each task")
    journal.set_defaults(run=_journal)
    certs = commands.add_parser("certs", help="make certificates for encrypted connections")
    certs.add_argument("directory", help="where to write them; if it has a CA already, only a new certificate is made")
    certs.add_argument("hosts", nargs="*", metavar="HOST", help="a host name or address to put into the certificate")
    certs.set_defaults(run=_certs)
    add_cluster_commands(commands)
    add_chaos_command(commands)
    for command in (status, incidents, top, clear, retire, why):
        command.add_argument("address", help="the scheduler: host:port or a Twisted endpoint")
        command.add_argument("--secret-file", metavar="FILE", help="the shared secret [default: $TWISTDIST_SECRET_FILE]")
        command.add_argument("--tls", metavar="DIR", help="folder of certificates [default: $TWISTDIST_TLS]")
        command.add_argument("--timeout", type=float, default=10.0, help="seconds to wait [%(default)s]")
    retire.add_argument("names", nargs="+", metavar="WORKER", help="a worker's name")
    retire.add_argument("--patience", type=float, default=3600.0, help="seconds after which they end in any case [%(default)g]")
    clear.add_argument(
        "--session",
        metavar="NAME",
        action="append",
        default=[],
        help="a durable session to drop too; may be given several times",
    )
    why.add_argument("key", help="the task's key")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 1 with one line on standard error."""
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except (TwistdistError, OSError, ValueError, concurrent.futures.TimeoutError) as error:  # Python 3.10 has two
        print(f"twistdist: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
