"""How systems recover from faults: ``python -m benchmarks.recovery --help``, and docs/recovery-benchmark.rst.

``scenarios`` has what goes wrong, ``injection`` makes it go wrong, in the same way for all systems, and ``outcomes`` counts how
tasks ended.  ``adapters`` has a module for each system.  Each run is a process of its own (``one``), and in the scenario whose
client is killed that client is another one (``client``).  ``table`` shows the medians.
"""
