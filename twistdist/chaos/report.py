"""The report of ``twistdist chaos``: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from twistdist.chaos.scripts import Answer, Run, difference, verdict
from twistdist.display import printable


@attrs.frozen
class Setup:
    """What was asked for.  ``unavailable``: kinds of faults that were left out, with the reason."""

    command: list[str]
    seed: int
    rate: float
    kinds: tuple[str, ...]
    unavailable: dict[str, str]
    workers: int
    slots: int


def begin(setup: Setup) -> list[str]:
    """Return the lines that are printed before anything runs."""
    lines = [
        f"seed          {setup.seed}",
        f"faults        {setup.rate:g} per second of {', '.join(setup.kinds)}",
        f"cluster       {_count(setup.workers, 'worker')} of {_count(setup.slots, 'slot')}",
    ]
    lines += [f"unavailable   {kind}: {reason}" for kind, reason in setup.unavailable.items()]
    return lines


def reference_lines(run: Run) -> list[str]:
    """Describe the run without faults."""
    return [
        f"reference     {_count(run.counts.done, 'execution')} in {run.answer.seconds:.2f} s, exit status {run.answer.status}, "
        f"{_count(run.answer.output.stat().st_size, 'byte')} of output"
    ]


def run_lines(number: int, seed: int, reference: Run | None, run: Run) -> list[str]:
    """Describe a run with faults."""
    answer = run.answer
    found = verdict(reference.answer if reference else None, answer)
    lines = [
        f"run {number}         seed {seed}",
        f"  answer      {found.upper() if found != 'right' else found}{_why(reference, answer, found)}",
    ]
    missed = f"; {run.missed} hit nothing" if run.missed else ""
    lines.append(f"  faults      {sum(run.faults.values())}{_by_kind(run.faults)}{missed}")
    without = f", {reference.counts.done} without faults" if reference else ""
    lines.append(f"  executed    {_count(run.counts.done, 'execution')} gave a value{without}")
    lines.append(f"  again       {run.counts.replays} for values that were lost, {run.counts.reruns} given to a worker again")
    compared = f", {reference.answer.seconds:.2f} s without faults" if reference else ""
    lines.append(f"  time        {answer.seconds:.2f} s{compared}")
    lines.append(f"  incidents   {sum(run.counts.incidents.values())}{_by_kind(run.counts.incidents)}")
    if found != "right":
        lines += [f"  | {printable(line)}" for line in answer.errors]
    return lines


def _why(reference: Run | None, answer: Answer, found: str) -> str:
    if found == "wrong" and reference is not None:
        return f": {difference(reference.answer, answer)}"
    if found == "none":
        if answer.status is None:
            return f": it did not end within {answer.seconds:.0f} s"
        return f": it failed with exit status {answer.status}; the end of its standard error:"
    return ""


def as_json(setup: Setup, reference: Run | None, runs: Mapping[int, Run]) -> dict[str, Any]:
    """Return everything as an object for JSON; ``runs``: by seed."""
    return {
        **attrs.asdict(setup),
        "kinds": list(setup.kinds),
        "reference": None if reference is None else _run_object(reference),
        "runs": [
            {
                "seed": seed,
                "answer": verdict(reference.answer if reference else None, run.answer),
                **_run_object(run),
                **_faults(reference, run),
            }
            for seed, run in runs.items()
        ],
    }


def _run_object(run: Run) -> dict[str, Any]:
    return {
        "exit_status": run.answer.status,
        "seconds": round(run.answer.seconds, 3),
        "output_bytes": run.answer.output.stat().st_size,
        "stderr": run.answer.errors,
        "tasks": attrs.asdict(run.counts),
    }


def _faults(reference: Run | None, run: Run) -> dict[str, Any]:
    return {
        "difference": "" if reference is None else difference(reference.answer, run.answer),
        "faults": run.faults,
        "missed": run.missed,
        "injected": [
            {
                **attrs.asdict(injected.fault),
                "victim": injected.fault.victim,
                "done": injected.done,
                "outcome": injected.outcome,
            }
            for injected in run.injected
        ],
    }


def _by_kind(counts: Mapping[str, int]) -> str:
    return ": " + ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) if counts else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
