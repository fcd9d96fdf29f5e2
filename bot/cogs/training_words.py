"""The sentences of a fine-tune: one progress message that is edited, and how it ended."""

import math
from typing import Any

from bot.cogs.model_words import code
from bot.service_client import Json
from bot.store import Counts, VoteCounts
from bot.store import Job as StoredJob
from bot.ui.charts import size
from bot.ui.text import inline

BAR_CELLS = 20
AWAY = "⏳ The model service is away. The training goes on where it was when it is back; I keep looking."
_PHASES = {
    "validating_files": "Reading the jokes …",
    "queued": "Waiting for its turn …",
    "paused": "Paused.",
}
_OUTCOMES = {
    "succeeded": "its model was not better, so nothing changed",
    "failed": "it failed, so nothing changed",
    "cancelled": "it was cancelled",
    "lost": "the model service lost it",
}


def title(job: Json) -> str:
    """The first line of every progress message."""
    counts = _punchline(job).get("counts") or {}
    train, held_out = counts.get("train"), counts.get("held_out")
    what, on = ("pairs of jokes", "from votes") if learns_from_votes(job) else ("jokes", "this server's jokes")
    on = "everybody's model on the global jokes" if is_for_everybody(job) else on
    jokes = f" · {train} {what} to learn from, {held_out} to test with" if train is not None else ""
    if too_long := counts.get("too_long"):
        jokes += f" · {too_long} too long for the model, left out"
    return f"🎓 **Training {on}**{jokes}\n-# {inline(str(job.get('id', '')), 80)}"


def learns_from_votes(job: Json) -> bool:
    """Say whether a job is on preferences."""
    return bool((job.get("method") or {}).get("type") == "dpo")


def is_for_everybody(job: Json) -> bool:
    """Say whether a job is on the owner's global imports."""
    return bool((job.get("metadata") or {}).get("source") == "global")


def progress(job: Json) -> str:
    """Bar, step, loss and time left, as far as they are known; before the first step, the disk that it needs."""
    now = _punchline(job)
    step, total = now.get("step"), now.get("total_steps")
    if not total or step is None:
        needs = f" It takes at most {size(now['disk_bytes'])} of disk." if now.get("disk_bytes") else ""
        return f"{title(job)}\n{_PHASES.get(str(job.get('status')), 'Warming up …')}{needs}"
    share = min(1.0, step / total)
    facts = [f"**{share:.0%}**", f"step {step} of {total}"]
    if _finite(now.get("loss")):
        facts.append(f"loss {now['loss']:.2f}")
    if job.get("status") in ("paused", "queued"):
        facts.append(_PHASES[job["status"]].lower().rstrip(" .…"))
    elif step >= total:
        facts.append("comparing the new model with the old …")
    elif _finite(now.get("eta_s")):
        facts.append(f"{duration(now['eta_s'])} left")
    return f"{title(job)}\n`{bar(share)}` {' · '.join(facts)}"


def better_and_used(job: Json, before: str) -> str:
    """The gate passed, and the model is in use."""
    return (
        f"{title(job)}\n✅ **The new model is better, and tells this server's jokes from now on.** {figures(job)}\n"
        f"Hear it with `/joke`. Undo, or `/finetune rollback`, goes back to {code(before)}.\n{_name(job)}"
    )


def better(job: Json, number: int, compared: str, live: str) -> str:
    """The gate passed, and people decide: because the settings say so, or since another model was chosen meanwhile."""
    meanwhile = (
        ""
        if live == compared
        else f" It was compared with {code(compared)}, but {code(live)} tells the jokes here, so I leave that to you."
    )
    return (
        f"{title(job)}\n✅ **The new model is better.** {figures(job)}{meanwhile}\n"
        f"Promote, or `/finetune promote {number}`, uses it.\n{_name(job)}"
    )


def not_better(job: Json, before: str) -> str:
    """The gate did not pass: why, and that nothing has changed."""
    gate = _punchline(job).get("gate") or {}
    reasons = "\n".join(f"• {inline(str(reason), 300)}" for reason in gate.get("reasons") or [])
    return (
        f"{title(job)}\n⚖️ **Training has finished, but the new model is not better, so I keep the old one**"
        f" ({code(before)}). {figures(job)}\n{reasons}\nMore jokes help most:"
        f" {'`punchline import`' if is_for_everybody(job) else '`/addjoke`'}."
    )


def failed(job: Json, before: str) -> str:
    """The run broke; what serves goes on serving."""
    error = job.get("error") or {}
    reason = inline(str(error.get("message") or "the service did not say why"), 500)
    return f"{title(job)}\n❌ **Training failed:** {reason}\n{_unchanged(before)}"


def cancelled(job: Json, before: str) -> str:
    """Somebody stopped it."""
    return f"{title(job)}\n⏹️ **Training was cancelled.** {_unchanged(before)}"


def withdrawn(job: Json, before: str) -> str:
    """Somebody took back what it learned from."""
    return (
        f"{title(job)}\n🧹 **Training ended because somebody took back jokes it was given**, and nothing of it is kept."
        f" {_unchanged(before)} `/finetune start` trains without them."
    )


def lost(job_id: str) -> str:
    """The service does not know the job any more."""
    return (
        f"❌ **The model service does not know this training any more** ({inline(job_id, 80)}), so I stop following it."
        " Start a new one with `/finetune start`."
    )


def figures(job: Json) -> str:
    """How old and new compare on the held-out jokes."""
    now = _punchline(job)
    before, after = now.get("val_loss_before"), now.get("val_loss_after")
    if not (_finite(before) and _finite(after)):
        return ""
    held_out = (now.get("counts") or {}).get("held_out")
    what = "pairs of jokes" if learns_from_votes(job) else "jokes"
    where = f"On {held_out} {what} it never saw" if held_out else f"On {what} it never saw"
    change = f" ({(after - before) / before:+.1%})" if before else ""
    return f"{where}, its loss is {after:.3f} against {before:.3f}{change}; lower is better."


def jokes_there(counts: Counts) -> str:
    """How many jokes there are to train on, and how to get more."""
    return (
        f"{counts.trainable} of the {counts.total} jokes here may be used for training."
        " `/addjoke` adds one and asks for consent; `/jokes import` brings in the starter pack."
    )


def global_jokes_there(counts: Counts) -> str:
    """How many global jokes there are, and how to get more."""
    return f"There are {counts.total} global jokes. `punchline import FILE`, in a terminal, brings in more."


def votes_there(counts: VoteCounts) -> str:
    """How many votes there are to learn from, and how to get more."""
    answers, votes = counts.answers, counts.votes
    return (
        f"{answers} of my jokes here {'has' if answers == 1 else 'have'} votes ({votes} in all), which give"
        f" {counts.pairs} {'pair' if counts.pairs == 1 else 'pairs'} of answers to the same or a similar topic that"
        " people liked differently. More 👍 and 👎 under my jokes help; two jokes that are liked alike teach nothing."
    )


def idle(last: StoredJob | None, counts: Counts, live: str) -> str:
    """Nothing runs: what there was, and what could be trained on now."""
    lines = [f"No training is running. Jokes here are told by {code(live)}."]
    if last is not None and last.finished_at is not None:
        outcome = _OUTCOMES.get(last.status or "", "it ended")
        if last.outcome.passed:
            outcome = f"its model was better, and is {'in use' if last.model == live else 'not in use'}"
        lines.append(f"The last one ended <t:{int(last.finished_at.timestamp())}:R>: {outcome}.")
    lines.append(f"{counts.trainable} of the {counts.total} jokes here may be trained on. `/finetune start` begins.")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Write a time for people: "about 40 s", "about 3 min", "about 1 h 20 min"."""
    if seconds < 60:
        return f"about {max(1, math.ceil(seconds))} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 60:
        return f"about {minutes} min"
    return f"about {minutes // 60} h {minutes % 60} min"


def bar(share: float) -> str:
    """Draw a share between 0 and 1."""
    filled = round(share * BAR_CELLS)
    return "█" * filled + "░" * (BAR_CELLS - filled)


def _unchanged(model_id: str) -> str:
    return f"Nothing has changed: {code(model_id)} goes on telling jokes."


def _name(job: Json) -> str:
    others = " · every server can choose it with `/model set`" if is_for_everybody(job) else ""
    return f"-# new model: {inline(str(job.get('fine_tuned_model') or ''), 100)}{others}"


def _punchline(job: Json) -> Json:
    return job.get("punchline") or {}


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
