"""Running a user's program on a cluster of this machine while faults are injected: docs/chaos.rst.

``plan`` decides which faults there are, as a pure function.  ``links``, ``victims``, ``disks`` and ``memory`` are what can
fail; ``cluster`` is a ``LocalCluster`` whose connections go through links.  ``inject`` carries a plan out, ``watch`` reads the
cluster's counters meanwhile.  ``scripts`` runs a script and compares answers, ``report`` describes the outcome, ``command`` is
``twistdist chaos``; ``fixtures`` is for the plugin of pytest.
"""
