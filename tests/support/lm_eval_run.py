"""Runs EleutherAI's lm-evaluation-harness in a process of its own: `python lm_eval_run.py plan.json`.

The plan says {"tasks_folder", "tasks", "runs": [{"model_args": …, "batch_size": …}]}; the answer, on stdout, is one
JSON object per run: {"results": {task: metrics}, "samples": {task: [answers]}}. Only the harness's own code talks to
the service; its key comes from OPENAI_API_KEY.
"""

import json
import sys
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    tasks = TaskManager(include_path=plan["tasks_folder"], include_defaults=False)
    for run in plan["runs"]:
        outcome = simple_evaluate(
            "local-completions", tasks=plan["tasks"], task_manager=tasks, bootstrap_iters=0, **run
        )
        samples = {
            task: [row["filtered_resps"] for row in sorted(rows, key=lambda row: row["doc_id"])]
            for task, rows in outcome["samples"].items()
        }
        print(json.dumps({"results": outcome["results"], "samples": samples}))


if __name__ == "__main__":
    main()
