"""The simulator, shipped for users who want to try the cores under faults."""
