"""A client session's core: what was requested, and what is known about it.

``records`` and ``effects`` are data; ``submits`` collects tasks into messages; ``client`` is the facade.
"""

from twistdist.core.client.client import Client
from twistdist.core.client.records import FunctionRef, Record, State

__all__ = ["Client", "FunctionRef", "Record", "State"]
