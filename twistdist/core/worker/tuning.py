"""The numbers that tune a worker's behaviour."""

from __future__ import annotations

import attrs

from twistdist.core.tuned import count, ratio, seconds


@attrs.frozen
class Tuning:
    """The defaults are measured or reasoned; only tests and experiments change them."""

    # giving tasks to executors
    window_us: int = count(
        15_000, "µs", "expected work given to an executor ahead of time: three pauses between checks of its outcomes"
    )
    ahead_us: int = count(50_000, "µs", "a task known to be shorter than this may wait behind a running task")
    stall_s: float = seconds(0.02, "time without an outcome after which tasks behind the running one go to an idle executor")
    stuck_s: float = seconds(2.0, "an executor that has not begun a task after this long is replaced")
    # ending attempts
    grace_s: float = seconds(0.5, "time that an interrupted task has to clean up before its process is killed")
    kill_s: float = seconds(0.05, "pause between checks of an attempt that must be killed and is not running yet")
    abandoned_s: float = seconds(0.25, "time that a running task may continue when nobody wants its outcome any more")
    max_exposed: int = count(
        3, "deaths", "deaths of its executor, possibly from other causes, at which an attempt is charged for them"
    )
    # starting executors
    backoff_s: float = seconds(0.05, "pause before an executor that ended without an outcome is replaced, doubled each time")
    longest_backoff_s: float = seconds(10.0, "the longest such pause")
    max_failed_starts: int = count(
        3, "starts", "failed starts in a row after which the worker takes no work until one succeeds"
    )
    # memory: shares of the worker's limit
    spill_above: float = ratio(0.70, "results are moved to disk above this share of the memory limit ...")
    spill_until: float = ratio(0.60, "... until they are below this one")
    pause_above: float = ratio(0.85, "one task at a time above this share ...")
    pause_until: float = ratio(0.80, "... until below this one")
    stop_above: float = ratio(0.95, "the largest executor is ended above this share")
    look_s: float = seconds(0.2, "pause between two checks of memory while little is used")
    look_closely_s: float = seconds(0.05, "pause between two checks while much is used")
    spill_pause_s: float = seconds(5.0, "pause after results could not be moved to disk")
    # heartbeats
    files_every: int = count(16, "beats", "number of beats of which one contains the digest of all stored files")
