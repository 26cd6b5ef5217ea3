"""Storage on disk: result files, checkpoints and the journal."""
