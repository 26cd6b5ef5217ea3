"""``twistdist chaos``."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from twistdist.chaos.plan import DEFAULT_KINDS, MAX_RATE, RATE, ROLES, check_kinds, check_rate, check_seed
from twistdist.clusters.commands import count_of
from twistdist.clusters.options import MAX_SLOTS
from twistdist.errors import TwistdistError

#: Workers, and seconds that a run may take, by default; and the largest numbers that are accepted.
WORKERS, TIMEOUT_S = 3, 300.0
MAX_WORKERS, MAX_RUNS, MAX_TIMEOUT_S = 100, 10_000, 86_400.0

#: Seeds that are chosen at random are below this, so that they are short enough to type.
_SEEDS = 10**6

#: Exit status if there is no answer to judge: bad input, or faults that are not available here.
UNUSABLE = 2


def add_chaos_command(commands: Any) -> None:
    """Add the command to the subparsers of ``twistdist``."""
    chaos = commands.add_parser("chaos", help="run a script on a cluster on this machine while faults are injected")
    chaos.add_argument("script", metavar="SCRIPT", help="a Python file that uses Client() without an address")
    chaos.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="the script's arguments")
    chaos.add_argument("--seed", type=_checked(int, check_seed), help="integer that determines the faults [random]")
    chaos.add_argument(
        "--rate", type=_checked(float, check_rate), default=RATE, help=f"faults per second, at most {MAX_RATE:g} [%(default)g]"
    )
    chaos.add_argument(
        "--faults", type=_kinds, metavar="KIND,…", help=f"some of {', '.join(ROLES)} [all but journal that are available]"
    )
    chaos.add_argument("--workers", type=_at_most(MAX_WORKERS), default=WORKERS, help="number of workers [%(default)s]")
    chaos.add_argument("--slots", type=_at_most(MAX_SLOTS), default=1, help="tasks that each runs at a time [%(default)s]")
    chaos.add_argument(
        "--runs", type=_at_most(MAX_RUNS), default=1, help="runs with faults, each with the next seed [%(default)s]"
    )
    chaos.add_argument(
        "--timeout", type=_checked(float, _check_timeout), default=TIMEOUT_S, help="seconds that a run may take [%(default)g]"
    )
    chaos.add_argument(
        "--no-reference", action="store_true", help="do not run it without faults first: exit status 0 is the right answer"
    )
    chaos.add_argument("--json", metavar="FILE", help="write the report to this file, as JSON")
    chaos.set_defaults(run=_chaos)


def _checked(convert: Any, check: Any) -> Any:
    """Return a type for argparse whose errors are those of ``check``."""

    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
        try:
            return check(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def _kinds(text: str) -> tuple[str, ...]:
    try:
        return check_kinds(part.strip() for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _at_most(most: int) -> Any:
    def parse(text: str) -> int:
        number = count_of(text)
        if number > most:
            raise argparse.ArgumentTypeError(f"{text} is more than {most}")
        return number

    return parse


def _check_timeout(seconds: float) -> float:
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise ValueError(f"the time limit must be above 0 and at most {MAX_TIMEOUT_S:g} seconds, got {seconds:g}")
    return seconds


def _chaos(options: argparse.Namespace) -> int:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing stays mounted or running
    try:
        return _run(options)
    except (TwistdistError, OSError) as error:
        print(f"twistdist: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("twistdist: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(options: argparse.Namespace) -> int:
    from twistdist.chaos import report
    from twistdist.chaos.plan import plan
    from twistdist.chaos.scripts import Script, verdict

    path = Path(options.script)
    with open(path, "rb"):  # or say now why it can't be read
        pass
    if options.json is not None and not Path(options.json).resolve().parent.is_dir():
        raise FileNotFoundError(f"{options.json}: there is no such folder")
    reasons = _unavailable(options.faults or DEFAULT_KINDS)
    if options.faults is not None and reasons:
        raise OSError("; ".join(f"faults of the kind {kind} are not available: {reason}" for kind, reason in reasons.items()))
    kinds = tuple(kind for kind in options.faults or DEFAULT_KINDS if kind not in reasons)
    seed = random.SystemRandom().randrange(_SEEDS) if options.seed is None else options.seed
    setup = report.Setup([str(path), *options.arguments], seed, options.rate, kinds, reasons, options.workers, options.slots)
    _print(report.begin(setup))
    with tempfile.TemporaryDirectory(prefix="twistdist-chaos-") as folder:
        script = Script(path, options.arguments, options.workers, options.slots, options.timeout, kinds, Path(folder))
        reference = None
        if not options.no_reference:
            reference = script.run(0, None)
            _check_reference(reference, options.timeout)
            _print(report.reference_lines(reference))
        runs = {}
        for number in range(options.runs):
            run = runs[seed + number] = script.run(number + 1, plan(seed + number, options.rate, kinds, options.workers))
            _print(report.run_lines(number + 1, seed + number, reference, run))
        found = [verdict(reference.answer if reference else None, run.answer) for run in runs.values()]
        _print(["answers       " + ", ".join(f"{found.count(word)} {word}" for word in ("right", "wrong", "none"))])
        if options.json is not None:
            with open(options.json, "w", encoding="utf-8") as stream:
                json.dump(report.as_json(setup, reference, runs), stream, indent=1)
                stream.write("\n")
    return 0 if found.count("right") == len(found) else 1


def _check_reference(run: Any, timeout: float) -> None:
    """Raise ``TwistdistError`` if a run without faults is not usable as a reference."""
    answer = run.answer
    errors = "".join(f"\n  | {line}" for line in answer.errors)
    if answer.status is None:
        raise TwistdistError(f"the script did not end within {timeout:g} s without any fault; give a longer --timeout{errors}")
    if answer.status < 0:
        raise TwistdistError(f"the script was killed by signal {-answer.status} without any fault{errors}")
    if not run.counts.submitted:
        raise TwistdistError(
            "the script ran no task on the cluster; it must use Client() without an address, which reads TWISTDIST_SCHEDULER, "
            f"and no cluster of its own (exit status {answer.status}){errors}"
        )


def _unavailable(kinds: tuple[str, ...]) -> dict[str, str]:
    """Return the kinds that are not available here, with the reasons."""
    from twistdist.chaos import disks, victims

    reasons: dict[str, str] = {}
    for wanted, why in ((("kill", "stop"), victims.why_unavailable), (("disk", "journal"), disks.why_unavailable)):
        asked = [kind for kind in kinds if kind in wanted]
        reason = why() if asked else ""
        reasons |= dict.fromkeys(asked, reason) if reason else {}
    return reasons


def _print(lines: list[str]) -> None:
    print("\n".join(lines), flush=True)
