"""Configuration of the scheduler: settings for users, and the numbers that tune its behaviour."""

from __future__ import annotations

import attrs

from twistdist import config
from twistdist.core.tuned import count, ratio, seconds


@attrs.frozen
class Tuning:
    """Numbers that tune the scheduler: the defaults are measured or reasoned, and only tests and experiments change them."""

    # placement: which worker gets the next task, and how many tasks it is given ahead of time
    horizon_us: int = count(
        30_000, "µs", "work given to one slot ahead of time: what a worker gives an executor, and as much that waits for it"
    )
    max_ahead: int = count(512, "tasks", "maximum number of tasks given to one slot ahead of time")
    max_behind: int = count(
        512, "tasks", "maximum number of tasks sent to one slot behind those that make their inputs; 0: none are sent ahead"
    )
    overhead_us: int = count(15, "µs", "cost of a task besides its function: unpickling and bookkeeping")
    unknown_us: int = count(20_000, "µs", "assumed cost of a task whose function has not run yet")
    recall_load_us: int = count(
        4_000,
        "µs",
        "a worker with tasks ahead is asked to return some for an idle worker if they are expected to take longer than this",
    )
    recall_stall_s: float = seconds(0.02, "... or if it has finished nothing for this long")
    isolated_after: int = count(
        2, "deaths", "a task that was running during this many deaths of whole workers runs alone on its worker from then on"
    )
    max_compute_bytes: int = count(
        128 << 20, "bytes", "arguments and inline inputs of one task; a task with more can't be sent in one frame, and fails"
    )
    max_upload_bytes: int = count(64 << 20, "bytes", "all files together that clients have uploaded for workers")
    batch_s: float = seconds(0.1, "submits of one session within this time form one batch in the priority order")
    slice_tasks: int = count(
        250, "tasks", "tasks that one event drops, or gives to workers, at most; the next ones follow after others were served"
    )
    # inputs that could not be fetched
    max_lost_inputs: int = count(
        4,
        "failures",
        "failed fetches of a task's inputs after which their copies are considered lost, if the link has been "
        "bad for dead_after",
    )
    max_lost_inputs_early: int = count(7, "failures", "failures counted at most while the value may still become reachable")
    max_lost_inputs_in_all: int = count(12, "failures", "failed fetches after which the task fails")
    input_pause_s: float = seconds(0.05, "pause before the task is tried again, doubled each time")
    longest_input_pause_s: float = seconds(5.0, "the longest such pause")
    link_s: float = seconds(
        60.0, "a link over which a fetch has failed is avoided for this long, and at least twice dead_after"
    )
    tell_again_s: float = seconds(0.2, "pause before a client that could not fetch a value is sent its holders again")
    # copies
    copy_pause_s: float = seconds(0.05, "pause before a failed copy is tried again, doubled each time")
    longest_copy_pause_s: float = seconds(60.0, "the longest such pause")
    uneven: float = ratio(1.1, "rebalance() moves values away from workers that hold more than this times the mean")
    # scattered data
    max_tries: int = count(8, "tries", "times that a session is asked to send its data to a worker that it can't reach")
    supply_pause_s: float = seconds(0.1, "pause between two such tries, doubled each time")
    longest_supply_pause_s: float = seconds(5.0, "the longest such pause")
    # audits
    audit_after_s: float = seconds(10.0, "uninterrupted traffic, during which beats can't compare, before a worker is audited")
    audit_pause_s: float = seconds(20.0, "pause after an audit that found nothing, doubled each time")
    longest_audit_pause_s: float = seconds(640.0, "the longest such pause")
    max_different: int = count(2, "beats", "consecutive beats that differ before a worker is audited")
    # the watchdog
    stuck_s: float = seconds(10.0, "a worker that does nothing with its tasks for this long loses them")
    rest_s: float = seconds(30.0, "such a worker is given nothing for this long")
    watch_s: float = seconds(10.0, "time without progress after which the watchdog looks for the cause")
    longest_watch_s: float = seconds(80.0, "the longest pause between two such checks")
    # tasks that wait for tasks, tasks that no worker may run
    nested_look_s: float = seconds(
        0.25, "pause after a task's client has submitted something before checking whether it could begin; doubled each time"
    )
    longest_nested_look_s: float = seconds(2.0, "the longest pause between two such checks")
    max_looked_at: int = count(10_000, "tasks", "tasks examined at most to find one that can't begin")
    lacks_look_s: float = seconds(5.0, "time that tasks wait before it is reported that no connected worker may run them")
    # after a restart
    restart_grace_s: float = seconds(3.0, "time that a worker whose process is gone has to be started again")
    # memory
    max_outlived: int = count(10_000, "incarnations", "replaced incarnations of workers that are remembered")
    max_failures: int = count(1_000, "tasks", "failed and forgotten tasks whose errors are remembered")
    max_incidents: int = count(1_000, "incidents", "incidents kept for the edge to log")


@attrs.frozen
class Settings:
    """Options of the scheduler.

    Args:
        suspect_after: Seconds of silence after which a worker is suspected and gets no new work.
        dead_after: Seconds of silence after which it is given up.
        worker_grace: Seconds that a worker whose process is known to be gone has to come back.
        client_grace: Seconds that the session of a disconnected client is kept.
        name_grace: Seconds after which a task fails if it names only workers that never joined.
        checkpoints: URL of the checkpoint store; "" for none.
        tuning: Numbers that only tests and experiments change.
    """

    suspect_after: float = config.SUSPECT_AFTER_S
    dead_after: float = config.DEAD_AFTER_S
    worker_grace: float = config.WORKER_GRACE_S
    client_grace: float = config.CLIENT_GRACE_S
    name_grace: float = config.NAME_GRACE_S
    checkpoints: str = ""
    tuning: Tuning = attrs.field(factory=Tuning)

    @property
    def look_every(self) -> float:
        """Seconds between two checks for silent peers."""
        return self.suspect_after / 4

    @property
    def looks_a_beat(self) -> int:
        """Checks between two heartbeats of the scheduler, which can be rarer than those of the workers."""
        return max(1, int(self.dead_after / 8 / self.look_every))
