"""Benchmarks of twistdist beside other systems: ``python -m benchmarks --help``, and docs/performance.rst.

``systems`` has one adapter for each measured system, ``workloads`` what they are given to do.  ``run`` lets them take turns,
each time in a new process (``one``); ``meter`` reads CPU time and memory, ``table`` shows medians.  The modules ``executors``,
``heartbeats`` and ``network`` measure what only twistdist has, by themselves: ``python -m benchmarks.network``.  ``recovery``
is the recovery benchmark.  Linux only.
"""
