"""Creates the parts of the scheduler, each with those before it that it needs, and says which message goes to which part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler.activity import Activity
from twistdist.core.scheduler.ahead import Ahead
from twistdist.core.scheduler.attempts import Attempts
from twistdist.core.scheduler.audits import Audits
from twistdist.core.scheduler.backlog import Backlog
from twistdist.core.scheduler.broadcasts import Broadcasts
from twistdist.core.scheduler.cancelling import Cancelling
from twistdist.core.scheduler.client_sessions import ClientSessions
from twistdist.core.scheduler.commands import Commands
from twistdist.core.scheduler.copies import Copies
from twistdist.core.scheduler.detours import Detours
from twistdist.core.scheduler.dispatch import Dispatch
from twistdist.core.scheduler.durable import Durable
from twistdist.core.scheduler.fleet import Fleet
from twistdist.core.scheduler.garbage import Garbage
from twistdist.core.scheduler.holdings import Holdings
from twistdist.core.scheduler.lacks import Lacks
from twistdist.core.scheduler.leaving import Leaving
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.liveness import Liveness
from twistdist.core.scheduler.nested import Nested
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.pace import Pace
from twistdist.core.scheduler.placement import Placement
from twistdist.core.scheduler.queries import Queries
from twistdist.core.scheduler.queues import Queues
from twistdist.core.scheduler.reach import Reach
from twistdist.core.scheduler.records import Statistics
from twistdist.core.scheduler.recovery import Recovery
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.rejoining import Rejoining
from twistdist.core.scheduler.restarts import Restarts
from twistdist.core.scheduler.restoring import Restoring
from twistdist.core.scheduler.scattered import Scattered
from twistdist.core.scheduler.settings import Settings
from twistdist.core.scheduler.slots import Slots
from twistdist.core.scheduler.submits import Submits
from twistdist.core.scheduler.supplies import Supplies
from twistdist.core.scheduler.targets import Targets
from twistdist.core.scheduler.timeline import Timeline
from twistdist.core.scheduler.transitions import Transitions
from twistdist.core.scheduler.uploads import Uploads
from twistdist.core.scheduler.watchdog import Watchdog
from twistdist.core.scheduler.watchers import Watchers
from twistdist.wire import messages as m


class Parts:
    """All parts, by name.  Creates them in the order in which they are listed in :mod:`twistdist.core.scheduler`."""

    def __init__(self, epoch: int, settings: Settings, ledger: Ledger) -> None:
        tuning, self.statistics = settings.tuning, Statistics()
        statistics = self.statistics
        self.alarms = alarms = Alarms()
        # The parts, in order: each is given those before it that it needs.
        self.pace = pace = Pace(tuning, alarms)
        self.timeline = timeline = Timeline()
        self.outputs = outputs = Outputs(tuning, statistics)
        self.activity = activity = Activity()
        self.registry = registry = Registry(outputs, ledger, epoch, statistics, timeline, activity)
        self.reach = reach = Reach(outputs, registry)
        self.targets = targets = Targets()
        self.holdings = holdings = Holdings(outputs, targets)
        self.placement = placement = Placement(tuning)
        self.ahead = ahead = Ahead(placement)
        self.slots = slots = Slots(outputs, placement, ahead)
        self.queues = queues = Queues(tuning, registry, reach, slots)
        self.watchers = watchers = Watchers(outputs, registry, reach, ledger)
        self.supplies = supplies = Supplies(outputs, registry, reach, ledger)
        self.backlog = backlog = Backlog()
        self.transitions = transitions = Transitions(activity, backlog)
        self.lifecycle = lifecycle = Lifecycle(
            outputs, registry, ledger, timeline, transitions, targets, slots, queues, watchers, supplies
        )
        self.dispatch = dispatch = Dispatch(
            tuning, alarms, pace, settings, outputs, registry, reach, transitions, placement, slots, queues, lifecycle, ahead
        )
        self.attempts = attempts = Attempts(
            outputs, registry, ledger, timeline, transitions, targets, holdings, slots, queues, lifecycle, ahead, activity
        )
        self.garbage = garbage = Garbage(
            tuning, pace, outputs, registry, ledger, transitions, targets, holdings, queues, supplies, lifecycle
        )
        self.copies = copies = Copies(tuning, alarms, outputs, registry, reach, ledger, targets, holdings, watchers, supplies)
        self.recovery = recovery = Recovery(outputs, registry, timeline, reach, targets, holdings, lifecycle, copies, activity)
        self.scattered = scattered = Scattered(
            tuning, alarms, outputs, registry, ledger, targets, watchers, supplies, lifecycle, garbage
        )
        self.detours = detours = Detours(
            tuning, alarms, settings, outputs, registry, timeline, reach, queues, lifecycle, attempts, copies, recovery
        )
        self.broadcasts = broadcasts = Broadcasts(outputs, registry)
        self.uploads = uploads = Uploads(tuning, outputs, registry, ledger, broadcasts)
        self.leaving = leaving = Leaving(alarms, outputs, registry, placement, targets, copies, scattered)
        self.fleet = fleet = Fleet(
            tuning,
            outputs,
            registry,
            ledger,
            broadcasts,
            uploads,
            reach,
            placement,
            holdings,
            queues,
            attempts,
            copies,
            recovery,
            scattered,
            leaving,
        )
        self.liveness = Liveness(alarms, settings, outputs, registry, reach, placement, copies, scattered, fleet)
        self.watchdog = Watchdog(tuning, alarms, outputs, registry, transitions, placement, queues, lifecycle)
        self.audits = Audits(tuning, outputs, registry, ahead, lifecycle, recovery)
        self.nested = nested = Nested(tuning, alarms, outputs, registry)
        self.client_sessions = client_sessions = ClientSessions(
            alarms, pace, settings, outputs, registry, ledger, watchers, scattered
        )
        self.cancelling = Cancelling(tuning, alarms, outputs, registry, watchers, lifecycle, copies, detours, ahead)
        self.durable = durable = Durable(registry, ledger, watchers, client_sessions)
        self.lacks = Lacks(tuning, alarms, outputs, registry, transitions, queues)
        self.submits = Submits(
            tuning, alarms, settings, registry, ledger, targets, watchers, lifecycle, garbage, nested, dispatch
        )
        self.rejoining = rejoining = Rejoining(
            tuning, alarms, settings, outputs, registry, ledger, transitions, lifecycle, copies
        )
        self.restoring = Restoring(
            outputs,
            registry,
            ledger,
            transitions,
            targets,
            watchers,
            lifecycle,
            garbage,
            client_sessions,
            durable,
            rejoining,
            uploads,
        )
        self.restarts = restarts = Restarts(outputs, registry, broadcasts, watchers, lifecycle, durable)
        commands = Commands(
            registry,
            watchers,
            lifecycle,
            garbage,
            copies,
            leaving,
            fleet,
            client_sessions,
            durable,
            broadcasts,
            uploads,
            restarts,
        )
        self.commands = commands
        self.queries = Queries(
            outputs,
            registry,
            transitions,
            queues,
            watchers,
            garbage,
            copies,
            durable,
            rejoining,
            broadcasts,
            commands,
            activity,
            backlog,
        )

    def table(self) -> dict[type, Callable[[float, Any, Any], None]]:
        """Which part each message goes to."""
        return {
            m.Function: self.client_sessions.function,
            m.Submit: self.submits.submit,
            m.Release: self.durable.release,
            m.Cancel: self.cancelling.cancel,
            m.Retry: self.cancelling.retry,
            m.Unreachable: self.cancelling.unreachable,
            m.Query: self.queries.query,
            m.Bye: self.client_sessions.bye,
            m.DropFunctions: self.client_sessions.drop_functions,
            m.Scatter: self.scattered.scatter,
            m.NotSupplied: self.scattered.not_supplied,
            m.Keeps: self.scattered.keeps,
            m.Done: self.attempts.done,
            m.Failed: self.attempts.failed,
            m.Crashed: self.attempts.crashed,
            m.InputLost: self.detours.input_lost,
            m.Have: self.recovery.have,
            m.Missing: self.recovery.missing,
            m.Recalled: self.dispatch.recalled,
            m.WorkerLog: self.fleet.log,
            m.Intake: self.slots.intake,
            m.Parked: self.slots.parked,
            m.CopyFailed: self.copies.copy_failed,
            m.Rescued: self.fleet.rescued,
            m.Locate: self.copies.locate,
            m.Leaving: self.leaving.leaving,
            m.Left: self.fleet.left,
            m.Inventory: self.audits.inventory,
            m.Answered: self.broadcasts.answered,
            m.Beat: lambda now, peer, message: None,  # it only matters outside the numbered frames
            m.Undecodable: lambda now, client, message: self.client_sessions.refuse(now, client, message, message.text),
        }
