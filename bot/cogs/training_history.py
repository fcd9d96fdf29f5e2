"""The trainings of a server in words: a line each, what to choose from, and how people name one."""

import difflib
from collections.abc import Sequence

from discord import app_commands

from bot.cogs.guild_model import Step
from bot.cogs.model_words import code
from bot.errors import BadInput
from bot.store import Job
from bot.ui.text import inline

PAGE = 10  # trainings to a message
MOST = 10_000  # trainings of a server that are looked through
MOST_CHOICES, CHOICE_LIMIT = 25, 100  # Discord's
_ENDED = {"failed": "failed", "cancelled": "cancelled", "lost": "the service lost it"}


def page(jobs: Sequence[Job], live: str, number: int) -> str:
    """Show a page of the trainings, newest first. `jobs` are all of them."""
    if not jobs:
        return "No training has run here yet. `/finetune start` begins one."
    pages = -(-len(jobs) // PAGE)
    if not 1 <= number <= pages:
        raise BadInput(f"There {'is 1 page' if pages == 1 else f'are {pages} pages'} of trainings, from 1.")
    shown = jobs[(number - 1) * PAGE : number * PAGE]
    lines = [f"🎓 **Trainings here** · jokes are told by {code(live)}"]
    lines += [line(job, live) for job in shown]
    if pages > 1:
        lines.append(f"-# Page {number} of {pages}: `/finetune history {number % pages + 1}` shows another.")
    return "\n".join(lines)


def line(job: Job, live: str) -> str:
    """One training: number, when, who, jokes, losses, how it ended, and whether its model is live."""
    outcome = job.outcome
    facts = [f"**#{job.number}** <t:{int(job.started_at.timestamp())}:d>"]
    if job.started_by is not None:
        facts.append(f"<@{job.started_by}>")
    if outcome.num_jokes is not None:
        facts.append(f"{outcome.num_jokes} jokes")
    if outcome.loss_before is not None and outcome.loss_after is not None:
        facts.append(f"loss {outcome.loss_before:.3f} → {outcome.loss_after:.3f}")
    facts.append("running" if job.finished_at is None else ended(job))
    if job.decision == "kept":
        facts.append("old one kept")
    elif job.decision == "undone":
        facts.append("undone")
    if job.model is not None and job.model == live:
        facts.append("🎤 **live**")
    return " · ".join(facts)


def ended(job: Job) -> str:
    """How a training ended, in two words."""
    if job.withdrawn:
        return "🧹 withdrawn"
    if job.status == "succeeded":
        return "✅ better" if job.outcome.passed else "⚖️ not better"
    return f"❌ {_ENDED.get(job.status or '', 'ended')}"


def stepped(step: Step) -> str:
    """Say what a rollback did."""
    over = "".join(f" {code(model)} is gone from the service, so I passed over it." for model in step.skipped)
    return f"{code(step.now)} tells this server's jokes again, instead of {code(step.left)}.{over}"


def find(jobs: Sequence[Job], named: str) -> Job:
    """Find a training by its number (3, #3), its id or the beginning of it, or its model. Raises BadInput."""
    wanted = named.strip().strip("`").removeprefix("#")
    if wanted.isdecimal():
        found = [job for job in jobs if job.number == int(wanted)]
    else:
        found = [job for job in jobs if wanted and (job.job_id.startswith(wanted) or job.model == wanted)]
    if len(found) == 1:
        return found[0]
    if not jobs:
        raise BadInput("No training has run here yet. `/finetune start` begins one.")
    if len(found) > 1:
        raise BadInput(
            f"`{inline(wanted, 60)}` could be {len(found)} trainings. Give the number: `#{found[0].number}`."
        )
    close = difflib.get_close_matches(wanted, [job.job_id for job in jobs], n=1, cutoff=0.8)
    guess = f" Did you mean `{close[0]}`?" if close else ""
    last = jobs[0].number
    numbers = "only #1" if last == 1 else f"#1 to #{last}"
    raise BadInput(
        f"There is no training `{inline(wanted, 60)}` here.{guess} `/finetune history` lists them: {numbers}."
    )


def choices(jobs: Sequence[Job], typed: str, live: str) -> list[app_commands.Choice[str]]:
    """Offer the trainings that made a model which is not in use."""
    offered = []
    for job in jobs:
        if job.model is None or job.finished_at is None or job.model == live or job.withdrawn:
            continue
        outcome = job.outcome
        facts = [f"#{job.number}", f"{job.finished_at:%Y-%m-%d %H:%M}", "better" if outcome.passed else "not better"]
        if outcome.loss_before is not None and outcome.loss_after is not None:
            facts.append(f"loss {outcome.loss_before:.3f} → {outcome.loss_after:.3f}")
        label = " · ".join([*facts, job.job_id])[:CHOICE_LIMIT]
        if typed.strip().lower() in label.lower():
            offered.append(app_commands.Choice(name=label, value=str(job.number)))
    return offered[:MOST_CHOICES]
