"""The HTTP API of the model service."""
