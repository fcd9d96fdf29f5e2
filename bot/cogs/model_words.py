"""What is said of models: the list, what can be chosen, what was chosen, and why something cannot be.

A card is a model as `GET /v1/models` has it. Only `id` is sure to be there: other servers of this API tell less.
"""

import difflib
import itertools
from collections.abc import Sequence

import discord

from bot.errors import BadInput
from bot.service_client import Json
from bot.ui.charts import Share, size
from bot.ui.text import inline, sanitise

COLOUR = 0x5865F2
MARKS = {"ready": "🟢", "loading": "🟡", "unloaded": "⚪", "failed": "🔴"}
LIST_LIMIT = 4000  # characters; Discord takes 4096 in an embed's description
NAME_LIMIT = 100
NAMES_LIMIT = 12  # names in a refusal
CHOICES_LIMIT, LABEL_LIMIT = 25, 100  # Discord's
CLOSE = 0.6


def overview(cards: Sequence[Json], live: str, default: str) -> discord.Embed:
    """All models, the one that tells jokes here marked."""
    is_there = any(card["id"] == live for card in cards)
    lines = [describe(card, is_live=card["id"] == (live if is_there else default)) for card in cards]
    if cards and not is_there:
        lines = [f"⚠️ {gone(live, default) if live != default else nobody(default)}", *lines]
    shown = list(itertools.takewhile(lambda length: length <= LIST_LIMIT, itertools.accumulate(map(_length, lines))))
    if len(shown) < len(lines):
        lines = [*lines[: len(shown)], f"… and {len(lines) - len(shown)} more."]
    embed = discord.Embed(title="Models", description="\n".join(lines) or "There are none.", colour=COLOUR)
    return embed.set_footer(text="🎤 tells the jokes here · 📌 always loaded")


def describe(card: Json, *, is_live: bool) -> str:
    """One model in two lines."""
    marks = f"{'🎤 ' if is_live else ''}**{named(card)}**{' 📌' if card.get('pinned') else ''}"
    taken = card_bytes(card)
    facts = [
        f"{MARKS.get(_state(card), '')} {state_words(card)}".strip(),
        "reads moods" if card.get("task") == "classify" else "writes",
        {"auto": "", None: ""}.get(card.get("weights"), str(card.get("weights"))),
        size(taken) if taken else "",
        _layers(card),
    ]
    shown = " · ".join(inline(fact, 300) for fact in facts if fact)
    return f"{marks}\n-# {shown}"


def state_words(card: Json) -> str:
    """How a model is, in words."""
    state = _state(card)
    if state == "failed":
        return f"failed: {_clause(_why(card))}"
    if state == "loading":
        progress = card.get("progress")
        return f"loading {int(progress * 100)} %" if isinstance(progress, int | float) else "loading"
    if state == "unloaded":
        return f"not loaded: {_clause(str(card['why']))}" if card.get("why") else "not loaded (loads when asked)"
    return state


def choose(cards: Sequence[Json], name: str) -> Json:
    """Find the model by its name; raises BadInput with those that can tell jokes here, the closest first."""
    card = next((card for card in cards if card["id"] == name), None)
    card = card or next((card for card in cards if str(card["id"]).lower() == name.lower()), None)
    if card is None:
        close = [str(each["id"]) for each in cards if _ratio(str(each["id"]), name) >= CLOSE]
        nearest = max(close, key=lambda model: _ratio(model, name), default="")
        hint = f" Did you mean {code(nearest)}?" if nearest else ""
        raise BadInput(f"There is no model called {code(name)}.{hint} {_tellers(cards, name)}")
    if not _tells_jokes(card):
        raise BadInput(f"{named(card)} reads moods and cannot tell jokes. {_tellers(cards, name)}")
    if _state(card) == "failed":
        why = inline(_clause(_why(card)), 600)
        raise BadInput(f"{named(card)} could not be loaded: {why}. {_tellers(cards, name)}")
    return card


def chosen(card: Json, before: str) -> str:
    """Say that a model tells the jokes now, and what to expect of the first one."""
    if card["id"] == before:
        told = f"✅ {named(card)} tells the jokes here, as before."
    else:
        told = f"✅ {named(card)} tells the jokes here now; before, it was {code(before)}."
    if _state(card) == "unloaded":
        return f"{told} It is not loaded: it loads at the first joke, which takes a little longer for that."
    if _state(card) == "loading":
        return f"{told} It is {state_words(card)} right now; jokes wait until it is done."
    return told


def choices(cards: Sequence[Json], typed: str, live: str) -> list[tuple[str, str]]:
    """What to offer while somebody types: label with the state, and name. Best first, at most 25."""
    tellers = [card for card in cards if _tells_jokes(card) and len(str(card["id"])) <= LABEL_LIMIT]
    ranks = [(_rank(card, typed.strip().lower()), place) for place, card in enumerate(tellers)]
    found = sorted((rank, place) for rank, place in ranks if rank is not None)[:CHOICES_LIMIT]
    return [(_label(tellers[place], live), str(tellers[place]["id"])) for _, place in found]


def gone(model: str, default: str) -> str:
    """Say that the chosen model is not there any more, who tells jokes instead, and what to do."""
    return (
        f"{code(model)} is gone, so {code(default)} tells the jokes. A moderator can choose another with `/model set`."
    )


def nobody(default: str) -> str:
    """Say that the model that should tell the jokes by the settings is not there."""
    return f"{code(default)} should tell the jokes, but is not there. A moderator can choose another with `/model set`."


def share_of(card: Json) -> Share:
    """What a model takes of the devices right now: nothing until it begins to load."""
    model, state = str(card["id"]), _state(card)
    if state in ("ready", "loading"):
        note = state_words(card) if state == "loading" else ""
        return Share(model, {str(name): int(taken) for name, taken in (card.get("device_bytes") or {}).items()}, note)
    return Share(model, {}, {"unloaded": "not loaded"}.get(state, state))


def owner_of(model_id: str) -> str | None:
    """Return the server a tuned model belongs to (`ft:<base>:<server>:<job>`); None: everybody's."""
    parts = model_id.split(":")
    return parts[-2] if parts[0] == "ft" and len(parts) >= 4 and parts[-2].isdigit() else None


def card_bytes(card: Json) -> int:
    """What a model takes in all: weights, cache and workspace where the service plans them, else what it says."""
    planned = sum(int(taken) for taken in (card.get("device_bytes") or {}).values())
    return planned or (card["bytes"] if isinstance(card.get("bytes"), int) else 0)


def named(card: Json) -> str:
    """Its name as code."""
    return code(str(card["id"]))


def code(name: str) -> str:
    """A name as code, where Discord shows every character as it is."""
    line = " ".join(sanitise(name).split()).replace("`", "'")
    return f"`{line if len(line) <= NAME_LIMIT else line[: NAME_LIMIT - 1] + '…'}`"


def _length(line: str) -> int:
    return len(line) + 1


def _tellers(cards: Sequence[Json], name: str) -> str:
    """List what can be chosen, the closest to a name first."""
    able = [card for card in cards if _tells_jokes(card) and _state(card) != "failed"]
    able.sort(key=lambda card: -_ratio(str(card["id"]), name))
    listed = [f"{named(card)}{'' if _state(card) == 'ready' else f' ({_short_state(card)})'}" for card in able]
    if not listed:
        return "None can right now; `/models` says why."
    more = f", and {len(listed) - NAMES_LIMIT} more: `/models` lists all" if len(listed) > NAMES_LIMIT else ""
    return f"These can tell jokes here: {', '.join(listed[:NAMES_LIMIT])}{more}."


def _rank(card: Json, typed: str) -> tuple[int, float] | None:
    """How well a name matches what was typed so far, small is good; None: not at all. Failed ones come last."""
    model = str(card["id"]).lower()
    likeness = _ratio(model, typed)
    if typed in model:
        rank = 0 if model.startswith(typed) else 1
    elif likeness >= CLOSE:
        rank = 2
    else:
        return None
    return rank + 3 * (_state(card) == "failed"), -likeness if rank == 2 else 0.0


def _label(card: Json, live: str) -> str:
    here = ", tells the jokes here" if card["id"] == live else ""
    told = f" · {_short_state(card)}{here}"
    model = str(card["id"])
    room = LABEL_LIMIT - len(told)
    return f"{model if len(model) <= room else model[: room - 1] + '…'}{told}"


def _layers(card: Json) -> str:
    """Say which layers lie where: "layers 0–23 on cuda:0, 24–47 on cuda:1"."""
    places = card.get("device_map") or {}
    told = ", ".join(f"{'' if part == 'all' else part.replace('-', '–') + ' '}on {at}" for part, at in places.items())
    return told.replace(", layers ", ", ")


def _state(card: Json) -> str:
    return str(card.get("state") or "ready")


def _short_state(card: Json) -> str:
    return {"unloaded": "not loaded", "failed": "failed"}.get(_state(card)) or state_words(card)


def _why(card: Json) -> str:
    return str(card.get("error") or card.get("why") or "the service does not say why")


def _clause(sentence: str) -> str:
    """Make a sentence a part of another."""
    return sentence.replace("It ", "it ", 1).rstrip(". ") if sentence.startswith("It ") else sentence.rstrip(". ")


def _tells_jokes(card: Json) -> bool:
    return str(card.get("task") or "generate") == "generate"


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()
