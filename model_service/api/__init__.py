"""The HTTP API: OpenAI's shape plus `/v1/classify`."""
