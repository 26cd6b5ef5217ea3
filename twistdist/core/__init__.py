"""The decisions of the scheduler, the worker and the client, as pure state machines."""
