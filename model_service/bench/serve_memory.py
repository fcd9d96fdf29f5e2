"""`bench serve --requests 10000`: whether the service's memory grows over many short requests."""

from model_service.bench.children import in_child
from model_service.bench.contestants import OURS
from model_service.bench.models import open_model
from model_service.bench.report import Report, result
from model_service.bench.serve import running_service
from model_service.bench.session import Session
from model_service.bench.task import Task

LOOKS = 10  # at the memory, evenly spread
PROMPT_LEN, NEW_TOKENS = 16, 4
COLUMNS = ("model", "requests", "memory MB", "requests/s")


def measure(source: str, streams: int, requests: int, session: Session) -> Report:
    """Send requests, `streams` at once, and look at the service's memory after every tenth of them."""
    machine = session.machine()
    model = open_model(source, session.cache, session.log)
    step = max(1, requests // LOOKS)
    rows, found = [], []
    with session.bar(LOOKS) as bar, running_service(model, streams, session) as service:
        for number in range(LOOKS):
            bar.now(f"{model.name}: {number * step:,} of {step * LOOKS:,} requests")
            task = Task(step, PROMPT_LEN, NEW_TOKENS, seed=number)
            seconds = in_child(session.log, "serve_client.request_many", service.socket, model.name, task, streams)
            sent, memory_mb, speed = (number + 1) * step, service.memory_bytes / 1e6, step / seconds
            rows.append((model.name, f"{sent:,}", f"{memory_mb:,.1f}", f"{speed:,.0f}"))
            figures = {"requests": sent, "memory_mb": round(memory_mb, 1), "requests_per_s": round(speed, 1)}
            found.append(result(OURS, model.name, "auto", streams, None, None, **figures))
            bar.step()
    title = f"Memory of the service over {step * LOOKS:,} requests of {NEW_TOKENS} tokens, {streams} at once."
    return Report("serve-memory", title, COLUMNS, rows, found, (f"Machine: {machine.line}.",))
