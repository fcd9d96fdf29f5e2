"""What the service counts, for Prometheus. One registry per app: two apps in one process do not mix."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from model_service.placement.pool import Pool

FIRST_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one app; what the engines know already is read from them when someone asks."""

    def __init__(self, pool: Pool) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "punchline_requests_total", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self.tokens = Counter(
            "punchline_tokens_total", "Tokens of answered requests.", ["model", "kind"], registry=self._registry
        )
        self.first_token_s = Histogram(
            "punchline_time_to_first_token_seconds",
            "From the request to its first text, waiting included.",
            ["model"],
            buckets=FIRST_TOKEN_BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(_Engines(pool))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _Engines(Collector):
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """Read the engines' queues and batches as they are now."""
        waiting = GaugeMetricFamily("punchline_queue_length", "Sequences that wait for a slot.", labels=["model"])
        running = GaugeMetricFamily("punchline_running_sequences", "Sequences in the batch.", labels=["model"])
        reused = CounterMetricFamily(
            "punchline_reused_prompt_tokens", "Tokens of prompts that another request had read.", labels=["model"]
        )
        loaded = GaugeMetricFamily("punchline_model_ready", "1 if the model answers.", labels=["model"])
        yield from self._models()
        for name, engine in self._pool.generators():
            waiting.add_metric([name], engine.num_waiting)
            running.add_metric([name], engine.num_running)
            reused.add_metric([name], engine.reused_tokens)
        for held in self._pool.describe():
            loaded.add_metric([held.id], float(held.state == "ready"))
        yield from (waiting, running, reused, loaded)

    def _models(self) -> Iterator[Metric]:
        """Read what was loaded and left so far, and what lies where."""
        load_s = SummaryMetricFamily("punchline_model_load_seconds", "Loads that ended well.", labels=["model"])
        failures = CounterMetricFamily("punchline_model_load_failures", "Loads that failed.", labels=["model"])
        evictions = CounterMetricFamily("punchline_model_evictions", "Left to make room.", labels=["model"])
        taken = GaugeMetricFamily("punchline_model_bytes", "Planned for a model.", labels=["model", "device"])
        used = GaugeMetricFamily("punchline_device_used_bytes", "Planned for all models.", labels=["device"])
        total = GaugeMetricFamily("punchline_device_total_bytes", "What models may have.", labels=["device"])
        for name, counts in self._pool.tally.models.items():
            load_s.add_metric([name], count_value=counts.loads, sum_value=counts.load_s)
            failures.add_metric([name], counts.failures)
            evictions.add_metric([name], counts.evictions)
        for held in self._pool.describe():
            for device, size_bytes in held.device_bytes.items():
                taken.add_metric([held.id, device], size_bytes)
        for device_use in self._pool.devices():
            used.add_metric([device_use.name], device_use.used_bytes)
            total.add_metric([device_use.name], device_use.total_bytes)
        yield from (load_s, failures, evictions, taken, used, total)
