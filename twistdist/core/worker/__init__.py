"""The worker's core: what it is asked for and what its executors tell goes in, messages and effects come out.

Read it in this order; each module may use those before it.

Data: ``records``, ``effects``.  Decisions without a state of their own: ``memory`` (what too much memory leads to).  ``lease``
is the worker's side of heartbeats.

===============  ===========================================================================================
``outputs``      messages for the scheduler, effects for the edge
``files``        the results in the store
``jobs``         the attempts that were given, and the functions that they call
``inputs``       where inputs come from
``executors``    the processes
``intake``       how much the scheduler may have this worker run
``taking_back``  jobs that have not been begun are taken out of executors, and given back
``ending``       attempts that are made to end
``waiting``      tasks that wait for tasks
``giving``       jobs are given to executors
``usage``        looks at memory
``outcomes``     what executors send
``deaths``       an executor is ready, ends, or stands still
``membership``   what the scheduler knows of this worker
``worker``       the facade: the parts are made, and events go to them
===============  ===========================================================================================

No value is ever unpickled here.
"""

from twistdist.core.worker.executors import MAX_PARKED, most_executors
from twistdist.core.worker.records import Death
from twistdist.core.worker.worker import Worker

__all__ = ["MAX_PARKED", "Death", "Worker", "most_executors"]
