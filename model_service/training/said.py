"""What models said when they were judged, as their jobs' files keep it. No torch here.

It may repeat what a model learned from, so it goes when the model goes; the figures stay.
"""

import re
from pathlib import Path

from model_service.training import durable


def forget(jobs: Path, model_id: str) -> None:
    """Delete what was said in the job that made this model. The id of a tuned model ends in its job's."""
    job_id = model_id.rsplit(":", 1)[-1]
    if not re.fullmatch(r"ftjob-[0-9a-f]+", job_id):
        return  # not one that a job has made
    folder = jobs / job_id
    (folder / "before.json").unlink(missing_ok=True)  # of a job that has ended there is none; of older ones there is
    result = durable.read_json(folder / "result.json")
    if result is not None and result.get("evaluation", {}).get("samples"):
        kept = {name: value for name, value in result["evaluation"].items() if name != "samples"}
        durable.write_json(folder / "result.json", result | {"evaluation": kept})
