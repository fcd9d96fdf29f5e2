"""Runs sequences on a loaded model: scheduling, sampling, streaming."""
