"""The scheduler's core: takes events from its peers, produces messages for them and effects for the edge.

Read it in this order.  Each module may use those before it and none after it; each class owns the fields that its docstring
names, and is given the parts that it needs.

Data: ``sums``, ``records``, ``settings``.  Decisions without a state of their own: ``lineage``, ``possible``, ``nesting``,
``refusals``, ``stories``.

===================  ===========================================================================================
``pace``             how much one event may do
``timeline``         what happened to a task that was out of the ordinary
``activity``         what was executed lately
``outputs``          what one event produces for the edge
``registry``         all records, by number and by name
``reach``            which peers can reach each other
``targets``          which values need more than one copy
``holdings``         which worker holds which value
``placement``        which worker gets the next task
``ahead``            tasks that were sent to where their inputs are being made
``slots``            the tasks assigned to each worker
``queues``           the tasks that are ready
``watchers``         which futures want which task, and what they are sent
``supplies``         which session is asked for scattered data
``backlog``          how many tasks are ready, by what they need
``transitions``      the table of task states
``lifecycle``        what happens to a task, and what follows for its inputs and dependents
``dispatch``         gives ready tasks to workers, and takes them back
``attempts``         outcomes of attempts
``garbage``          drops what nobody wants
``copies``           keeps values at their targets
``recovery``         values that are lost, and values that return
``scattered``        data that sessions scatter
``detours``          inputs that could not be fetched
``broadcasts``       commands to all workers, and what they answer
``uploads``          modules and plugins that clients have uploaded
``leaving``          workers that must leave
``fleet``            the stories of a worker: it joins, is replaced, is away, is gone
``liveness``         silence, suspicion, death by silence
``watchdog``         work that makes no progress although it could
``audits``           compares what a worker has with what it should have
``nested``           tasks that wait for tasks of their own
``client_sessions``  sessions of clients
``cancelling``       futures that are cancelled, or whose values can't be fetched
``durable``          durable sessions and published names
``lacks``            tasks that no connected worker may run
``submits``          turns submits into tasks
``rejoining``        the wait for workers after a restart
``restoring``        creates the records from a journal
``restarts``         everything is dropped, and every worker begins again
``commands``         what clients order besides tasks
``queries``          answers about the cluster
``parts``            creates the parts, and says which message goes to which
``scheduler``        the facade: passes events to the parts, and ends every event
===================  ===========================================================================================

Beside them, ``ledger`` composes what must be written and ``gate`` holds what waits until it is.
"""

from twistdist.core.scheduler.fleet import LEFT, RETIRED
from twistdist.core.scheduler.scheduler import Scheduler
from twistdist.core.scheduler.settings import Settings

__all__ = ["LEFT", "RETIRED", "Scheduler", "Settings"]
