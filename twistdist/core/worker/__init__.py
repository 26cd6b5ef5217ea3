"""The worker's core: takes requests and what its executors report, produces messages and effects.

Read it in this order; each module may use those before it.

Data: ``records``, ``effects``.  Decisions without a state of their own: ``memory`` (what to do about too much memory).
``lease`` is the worker's side of heartbeats.

===============  ===========================================================================================
``outputs``      messages for the scheduler, effects for the edge
``files``        the results in the store
``jobs``         the assigned attempts, and the functions that they call
``following``    jobs whose inputs are being made here
``inputs``       where inputs come from
``executors``    the processes
``intake``       how much the scheduler may have this worker run
``taking_back``  takes jobs that have not begun out of executors, and returns them
``ending``       makes attempts end
``waiting``      tasks that wait for tasks
``giving``       gives jobs to executors
``usage``        checks memory
``outcomes``     what executors send
``deaths``       an executor is ready, ends, or is stopped
``renewal``      executors that are replaced by fresh ones
``membership``   what the scheduler knows about this worker
``worker``       the facade: creates the parts and passes events to them
===============  ===========================================================================================

No value is ever unpickled here.
"""

from twistdist.core.worker.executors import MAX_PARKED, most_executors
from twistdist.core.worker.records import Death
from twistdist.core.worker.worker import Worker

__all__ = ["MAX_PARKED", "Death", "Worker", "most_executors"]
