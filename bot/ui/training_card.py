"""The card a moderator judges a fine-tune by: figures of both models, what both say, the loss curves, and buttons.

    | Held-out loss    3.500   3.150 ✓ |    1. Why did the …     1. My cat …        picture of the curves
    | …                                |    2. …                 2. …               [Promote] [Keep old] [Train longer]

The picture is drawn in `bot.ui.loss_chart`, which imports matplotlib; that is loaded when the first card is shown, so
`picture` belongs in a thread. A card's buttons have fixed ids and are answered by one persistent view, so that they
work after a restart as before it; the view that is sent is only drawn.
"""

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import discord

from bot.ui.text import inline
from bot.ui.views import Interaction, View

Json = dict[str, Any]
Action = Literal["promote", "undo", "keep", "longer"]
Points = tuple[tuple[int, float], ...]  # (step, loss)

ACTIONS: tuple[Action, ...] = ("promote", "undo", "keep", "longer")
FIELD_LIMIT = 1024  # characters Discord takes in a field
SAMPLE_LIMIT = 100  # characters of a sample that are shown; the service tells the whole
PASSED, NOT_PASSED = 0x009E73, 0x80848E
SAME = 0.0005  # losses closer than this look the same in the table
NOTHING_SAID = "*(nothing)*"


@dataclass(frozen=True, slots=True)
class Curves:
    """A run's losses in nats per token, by step. best_step: the one whose weights were kept."""

    train: Points
    held_out: Points
    best_step: int | None

    @property
    def is_worth_drawing(self) -> bool:
        """A curve needs two points."""
        return len(self.held_out) >= 2


def curves(events: Iterable[Json]) -> Curves:
    """Collect the curves from a job's events, in whatever order they come."""
    train: dict[int, float] = {}
    held_out: dict[int, float] = {}
    best: int | None = None
    found = [each["data"] for each in events if isinstance(each.get("data"), dict)]
    for data in sorted((d for d in found if isinstance(d.get("step"), int)), key=lambda d: int(d["step"])):
        if _finite(data.get("train_loss")):
            train[data["step"]] = float(data["train_loss"])
        if _finite(data.get("valid_loss")):
            held_out[data["step"]] = float(data["valid_loss"])
            best = data["step"] if data.get("is_best") else best
    return Curves(tuple(train.items()), tuple(held_out.items()), best)


def describe(found: Curves) -> str:
    """Say in words what the picture shows, for those who do not see it."""
    (_, first), (last_step, last) = found.held_out[0], found.held_out[-1]
    told = f"Loss curves over {last_step} steps. On the held-out jokes it went from {first:.3f} to {last:.3f}"
    if found.best_step is not None:
        told += f"; lowest, and kept, was {dict(found.held_out)[found.best_step]:.3f} at step {found.best_step}"
    if found.train:
        told += f". On the jokes it learned from it went from {found.train[0][1]:.3f} to {found.train[-1][1]:.3f}"
    return f"{told}."


def picture(found: Curves) -> bytes:
    """Draw the PNG. Blocks for some tens of milliseconds, the first time for half a second."""
    from bot.ui.loss_chart import png

    return png(found)


def table(job: Json) -> str:
    """Write both models' figures as a code block; ✓ where the new one is better, ✗ where it is worse."""
    told = _evaluation(job)
    before, after = told.get("before") or {}, told.get("after") or {}
    num_samples = int(told.get("num_samples") or 0)
    rows = [
        _losses("Held-out loss", before.get("loss"), after.get("loss")),
        _losses("  bits per character", before.get("bits_per_char"), after.get("bits_per_char")),
        _losses("General loss", before.get("general_loss"), after.get("general_loss")),
        _losses("  bits per character", before.get("general_bits_per_char"), after.get("general_bits_per_char")),
        _row("Distinct-2", before.get("distinct_2"), after.get("distinct_2"), "{:.3f}", higher=True),
        _row("Copied word for word", before.get("verbatim_rate"), after.get("verbatim_rate"), "{:.0%}"),
        _row("Held back by filter", before.get("filter_hits"), after.get("filter_hits"), f"{{:d}}/{num_samples}"),
    ]
    shown = [row for row in rows if row]
    return "\n".join(["```", f"{'':20}{'before':>8}{'after':>8}", *shown, "```"]) if shown else ""


def embed(job: Json, *, passed: bool, image: str | None) -> discord.Embed:
    """Put the card together; `image` is the name of the attached picture."""
    told = _evaluation(job)
    card = discord.Embed(description=table(job) or None, colour=PASSED if passed else NOT_PASSED)
    pairs = told.get("samples") or []
    if pairs:
        for name in ("before", "after"):
            texts = [str(pair.get(name) or "") for pair in pairs]
            card.add_field(name=name.title(), value=_said(texts), inline=True)
        asked = inline(str(told.get("prompt") or ""), 60)
        card.set_footer(text=f"Asked “{asked}” with the same seeds. Lower is better, except distinct-2.")
    if image is not None:
        card.set_image(url=f"attachment://{image}")
    return card


class CardView(View):
    """The card's buttons. `press` answers all of them; it checks who pressed, and whether it still makes sense."""

    def __init__(
        self,
        press: Callable[[Interaction, Action], Awaitable[None]],
        actions: Sequence[Action] = ACTIONS,
        *,
        passed: bool = True,
    ) -> None:
        super().__init__(timeout=None)
        for action in actions:
            self.add_item(_Button(action, press, passed=passed))


class _Button(discord.ui.Button[CardView]):
    def __init__(
        self, action: Action, press: Callable[[Interaction, Action], Awaitable[None]], *, passed: bool
    ) -> None:
        label, emoji, style = _LOOKS[action]
        if action == "promote" and not passed:
            label, style = "Promote anyway", discord.ButtonStyle.danger
        super().__init__(label=label, emoji=emoji, style=style, custom_id=f"finetune:{action}")
        self._action, self._press = action, press

    async def callback(self, interaction: Interaction) -> None:
        await self._press(interaction, self._action)


_LOOKS: dict[Action, tuple[str, str, discord.ButtonStyle]] = {
    "promote": ("Promote", "✅", discord.ButtonStyle.success),
    "undo": ("Undo", "↩️", discord.ButtonStyle.danger),
    "keep": ("Keep old", "✋", discord.ButtonStyle.secondary),
    "longer": ("Train longer", "🔁", discord.ButtonStyle.secondary),
}


def drawn(actions: Sequence[Action], *, passed: bool = True) -> CardView:
    """Return buttons to send; presses go to the persistent view, as they will after a restart."""

    async def never(interaction: Interaction, action: Action) -> None:
        raise AssertionError("a view that has stopped is not asked")

    view = CardView(never, actions, passed=passed)
    view.stop()
    return view


def _losses(name: str, before: Any, after: Any) -> str:
    return _row(name, before, after, "{:.3f}")


def _row(name: str, before: Any, after: Any, form: str, *, higher: bool = False) -> str:
    """Write one line of the table; nothing where a figure is missing."""
    if not (_finite(before) and _finite(after)):
        return ""
    gain = after - before if higher else before - after
    mark = " " if abs(gain) < SAME else "✓" if gain > 0 else "✗"
    return f"{name:20}{form.format(before):>8}{form.format(after):>8} {mark}".rstrip()


def _said(texts: Sequence[str]) -> str:
    """Number the texts and cut them so that all fit one field, and two columns a screen."""
    room = min(SAMPLE_LIMIT, FIELD_LIMIT // len(texts) - 8)
    return "\n".join(f"**{i}** {inline(text, room) or NOTHING_SAID}" for i, text in enumerate(texts, start=1))


def _evaluation(job: Json) -> Json:
    """Return what the service measured; of one that measures less, the two losses."""
    now = job.get("punchline") or {}
    told = now.get("evaluation")
    if isinstance(told, dict):
        return told
    return {"before": {"loss": now.get("val_loss_before")}, "after": {"loss": now.get("val_loss_after")}}


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
