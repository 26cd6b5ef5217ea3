"""The scheduler's core: events from its peers in, messages for them and wishes to the edge out.

Read it in this order.  Each module may use those before it and none behind it; each class owns the fields that its docstring
names, and is given the parts that it needs.

Data: ``records``, ``settings``.  Decisions without a state of their own: ``lineage``, ``possible``, ``nesting``, ``refusals``,
``stories``.

===================  ===========================================================================================
``outputs``          what one event leaves for the edge
``registry``         all records by number and name
``reach``            who can reach whom
``targets``          which values need more than one copy
``holdings``         which worker holds which value
``placement``        which worker gets the next task
``slots``            what each worker has been given to run
``queues``           the tasks that are ready
``watchers``         which futures want which task, and what they are told
``supplies``         who is asked for scattered data
``transitions``      the table of states
``lifecycle``        what happens to a task, and what follows for its inputs and dependents
``dispatch``         ready tasks are given to workers, and taken back
``attempts``         what came of attempts
``garbage``          what nobody wants goes
``copies``           values are kept at their targets
``recovery``         values that are lost, and values that return
``scattered``        data come from sessions
``detours``          inputs that could not be fetched
``leaving``          workers that are told to leave
``fleet``            the stories of a worker: it comes, is replaced, is away, is gone
``liveness``         silence, suspicion, death by silence
``watchdog``         what does not move although it could
``audits``           what a worker has is compared with what it should have
``nested``           tasks that wait for tasks of their own
``client_sessions``  sessions of clients
``cancelling``       futures that are cancelled, or can't be fetched
``durable``          durable sessions and published names
``lacks``            tasks that nobody may run
``submits``          submits become tasks
``rejoining``        the wait for workers after a restart
``restoring``        records from a journal
``queries``          answers about the cluster
``scheduler``        the facade: the parts are made, and events go to them
===================  ===========================================================================================

``ledger``           and ``gate`` stand beside them: what is to be written, and what waits until it is.
"""

from twistdist.core.scheduler.fleet import LEFT
from twistdist.core.scheduler.scheduler import Scheduler
from twistdist.core.scheduler.settings import Settings

__all__ = ["LEFT", "Scheduler", "Settings"]
