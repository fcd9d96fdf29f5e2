"""EleutherAI's lm-evaluation-harness, unmodified, scores the service over TCP; its numbers are transformers' own."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel

from tests.service.talk import EOS_ID
from tests.support import lm_eval_run
from tests.support.service_process import environment, model_table, running_service
from tests.support.tiny_models import byte_tokenizer, save_tiny_generator

pytestmark = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="lm_eval is not installed: the extra `eval` has it"
)

KEY = "sesame"
LIMIT_S = 60
QUESTIONS = (
    "Why not?",
    "Why me?",
    "Why the chicken?",
    "Why now?",
    "Why é?",
    "What is so funny about a very long road?",
)
STOP, MAX_GENERATED = "e", 12
TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
"""
TASKS = {
    "choice": """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "rolling": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]
""",
    "generate": f"""output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: ""
generation_kwargs: {{until: ["{STOP}"], max_gen_toks: {MAX_GENERATED}}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
""",
}
Rows = list[dict[str, Any]]
Score = Callable[[list[int], list[int]], tuple[float, bool]]


@pytest.fixture(scope="module")
def ending_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that would rather end: the one token that the harness asks for after a prompt is end-of-text."""
    folder = save_tiny_generator(tmp_path_factory.mktemp("ending"))
    model = GPT2LMHeadModel.from_pretrained(folder)
    with torch.no_grad():
        eos = model.lm_head.weight[EOS_ID]
        model.transformer.ln_f.bias += 30 * eos / eos.norm() ** 2  # 30 more for its logit
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tiny_folder: Path) -> Rows:
    """Questions with answers of one, several and two-byte characters; some are what the model itself would say."""
    model, tokenizer = GPT2LMHeadModel.from_pretrained(tiny_folder).eval(), byte_tokenizer()
    made: Rows = []
    for number, question in enumerate(QUESTIONS):
        with torch.no_grad():
            own = tokenizer.decode(model(torch.tensor([tokenizer.encode(question)])).logits[0, -1:].argmax(-1))
        likely = own if own.isascii() and own.isprintable() else "?"
        made.append({"question": question, "choices": [likely, " one more", "é!"], "answer": number % 3})
    return made


@pytest.fixture(scope="module")
def outcomes(rows: Rows, tiny_folder: Path, ending_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """What the harness made of token ids one by one, texts in pairs, ids in concurrent pairs, and the other model."""
    folder = tmp_path_factory.mktemp("harness")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, lines in TASKS.items():
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, rows=folder / "rows.jsonl") + lines)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(model: str, source: Path, batch_size: int, **model_args: object) -> dict[str, Any]:
        return {
            "batch_size": batch_size,
            "model_args": {
                "model": model,
                "base_url": f"http://127.0.0.1:{port}/v1/completions",
                "tokenizer_backend": "huggingface",
                "tokenizer": str(source),
                "max_length": 128,
                "max_retries": 1,
                **model_args,
            },
        }

    runs = [
        run("tiny", tiny_folder, 1, tokenized_requests=True),
        run("tiny", tiny_folder, 2, tokenized_requests=False),
        run("tiny", tiny_folder, 2, tokenized_requests=True, num_concurrent=3),
        run("ending", ending_folder, 4, tokenized_requests=True),
    ]
    (folder / "plan.json").write_text(json.dumps({"tasks_folder": str(folder), "tasks": list(TASKS), "runs": runs}))
    models = "".join(
        model_table(name, source, weights="float32")
        for name, source in (("tiny", tiny_folder), ("ending", ending_folder))
    )
    tcp = f'host = "127.0.0.1"\nport = {port}\napi_key = "{KEY}"'
    with running_service(models, tcp, port=port):
        ended = subprocess.run(
            [sys.executable, lm_eval_run.__file__, str(folder / "plan.json")],
            env={**environment(), "OPENAI_API_KEY": KEY, "HF_HOME": str(folder / "cache")},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def scorer(folder: Path) -> Score:
    """Return the function that scores a continuation as the harness defines it, with transformers alone."""
    model = GPT2LMHeadModel.from_pretrained(folder).eval()

    def score(context: list[int], continuation: list[int]) -> tuple[float, bool]:
        with torch.no_grad():
            logprobs = model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
        predicting = logprobs[len(context) - 1 : -1]
        chosen = predicting.gather(-1, torch.tensor(continuation)[:, None])
        return float(chosen.sum()), predicting.argmax(-1).tolist() == continuation

    return score


def test_the_harness_measures_what_transformers_does(
    outcomes: Rows, rows: Rows, tiny_folder: Path, ending_folder: Path
) -> None:
    """One test, because its fixture is dear and a worker of its own would pay for it again."""
    tiny, ending = scorer(tiny_folder), scorer(ending_folder)
    ids, texts, concurrent, other = outcomes
    assert sum(check_choices(outcome, rows, tiny) for outcome in (ids, texts, concurrent)) > 0, "no choice was greedy"
    check_choices(other, rows, ending)
    for outcome in (ids, concurrent):  # as text, the harness's end-of-text prefix would be just text to us
        check_rolling(outcome, tiny)
    check_rolling(other, ending)
    for outcome in (ids, texts, concurrent):
        check_generated(outcome, tiny_folder)


def check_choices(outcome: dict[str, Any], rows: Rows, score: Score) -> int:
    """Log-likelihood, greediness and accuracy; returns how many choices were greedy."""
    encode = byte_tokenizer().encode
    num_right = num_greedy = 0
    for row, answers in zip(rows, outcome["samples"]["choice"], strict=True):
        expected = [score(encode(row["question"]), encode(choice)) for choice in row["choices"]]
        values = [value for value, _ in expected]
        assert [value for value, _ in answers] == pytest.approx(values, abs=1e-3)
        assert [greedy for _, greedy in answers] == [greedy for _, greedy in expected]
        num_right += values.index(max(values)) == row["answer"]
        num_greedy += sum(greedy for _, greedy in expected)
    assert outcome["results"]["choice"]["acc,none"] == pytest.approx(num_right / len(rows))
    return num_greedy


def check_rolling(outcome: dict[str, Any], score: Score) -> None:
    """The log-likelihood of whole texts, from end-of-text on."""
    encode = byte_tokenizer().encode
    scored = [answer for [answer] in outcome["samples"]["rolling"]]
    assert scored == pytest.approx([score([EOS_ID], encode(question))[0] for question in QUESTIONS], abs=1e-3)


def check_generated(outcome: dict[str, Any], folder: Path) -> None:
    """Greedy texts up to the stop text."""
    model, tokenizer = GPT2LMHeadModel.from_pretrained(folder).eval(), byte_tokenizer()
    for question, [text] in zip(QUESTIONS, outcome["samples"]["generate"], strict=True):
        ids = torch.tensor([tokenizer.encode(question)])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_GENERATED, do_sample=False)
        answer = [token for token in made[0, ids.shape[1] :].tolist() if token != EOS_ID]
        assert text == str(tokenizer.decode(answer)).partition(STOP)[0]
