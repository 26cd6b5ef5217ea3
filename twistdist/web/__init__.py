"""What schedulers and workers show over HTTP: health, status, incidents, tasks, metrics.  Read-only.  And reports, in files."""
