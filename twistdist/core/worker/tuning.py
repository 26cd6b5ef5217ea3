"""The numbers that tune a worker's behaviour."""

from __future__ import annotations

import attrs

from twistdist.core.tuned import count, ratio, seconds


@attrs.frozen
class Tuning:
    """The defaults are measured or argued for; only tests and experiments change them."""

    # giving tasks to executors
    window_us: int = count(
        6_000, "µs", "expected work that an executor is given ahead: three pauses between looks at its outcomes"
    )
    ahead_us: int = count(50_000, "µs", "a task known to be shorter than this may wait behind a running task")
    stall_s: float = seconds(0.02, "time without an outcome after which tasks behind the running one go to an idle executor")
    stuck_s: float = seconds(2.0, "an executor that has not begun a task after this long is replaced")
    # ending attempts
    grace_s: float = seconds(0.5, "time that a task has to clean up after it was interrupted, before its process is killed")
    kill_s: float = seconds(0.05, "pause between looks at an attempt that is to be killed and is not running yet")
    abandoned_s: float = seconds(0.25, "time that a running task may go on when nobody wants its outcome any more")
    max_exposed: int = count(
        3, "deaths", "an attempt is charged for deaths of its executor that may have had another cause when there are so many"
    )
    # starting executors
    backoff_s: float = seconds(0.05, "pause before an executor is started that ended without an outcome, doubled each time")
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
    look_s: float = seconds(0.2, "pause between two looks at memory while little is used")
    look_closely_s: float = seconds(0.05, "pause between two looks while much is used")
    spill_pause_s: float = seconds(5.0, "pause after results could not be moved to disk")
    # heartbeats
    files_every: int = count(16, "beats", "every so many beats the digest of all stored files is sent")
