"""The torch side: weights, engines, training jobs, and the HTTP API over a local socket."""
