"""Forward passes and the reading of checkpoints."""
