"""Makes text safe to show and cuts it to size: the one place through which everything a model or a person wrote goes.

After `sanitise` a text cannot ping, link, invite, hide characters, turn lines around, look like a heading or somebody
else's quotation, or leave a code block or spoiler open that swallows what follows. `AllowedMentions.none()` stands
behind it; this is for what people see. Sanitising twice is sanitising once.
"""

import codecs
import re
import unicodedata

MESSAGE_LIMIT = 2000  # characters Discord takes in one message
GAP = "\u200b"  # zero width space: breaks a mention or a heading without being seen
LINK = "[link removed]"
MASK = "▇▇▇"

# Slurs, rot13 so that nobody has to read them here. A floor under the training data's own filter, not a judge of taste.
_ROT13 = "avttre avttn snttbg snt xvxr puvax fcvp jrgonpx genaal ergneq tbbx entrurnq orna(?:re|ref) qlxr xnssve cnxv"
_ENDINGS = r"(?:e?s|ed|z)?"
_LOOKALIKES = {"a": "a4@", "e": "e3", "g": "g69", "i": "i1!|", "o": "o0", "s": "s5$", "t": "t7"}


def _spelled(word: str) -> str:
    return "".join(f"[{re.escape(_LOOKALIKES[c])}]" if c in _LOOKALIKES else c for c in word)


_SLUR = re.compile(
    r"(?<!\w)(?:"
    + "|".join(word if "(" in word else _spelled(word) for word in codecs.decode(_ROT13, "rot13").split())
    + rf"){_ENDINGS}(?!\w)",
    re.IGNORECASE,
)
_LINKS = re.compile(
    r"\[[^\]\n]*\]\(\s*<?[^)\s]*[:/][^)\n]*\)"  # [text](address): shows one thing, opens another
    r"|\b[a-z][a-z0-9+.-]{1,20}://\S+"
    r"|\bwww\.\S+"
    r"|\bdiscord(?:app)?\s*\.\s*(?:gg|com|io|me|li)(?:\s*/\s*\S+)?"
    r"|\bdsc\.gg/\S+",
    re.IGNORECASE,
)
_IN_LINKS = ("](", "://", "www.", "discord", "dsc.gg")  # every link has one of them
_TAGS = re.compile(r"<(?=[@#/:]|a:|t:|id:|sound:|https?:)")  # <@1>, <#1>, </x:1>, <:x:1>, <t:0>
_LINE_STARTS = re.compile(rf"^(?={GAP}*[ \t]*(?:#{{1,3}}\s|-#\s|>{{1,3}}\s|>>>))", re.MULTILINE)
_COMBINING_RUN = 3


def sanitise(text: str) -> str:
    """Make a text safe to show in a message; an empty result is possible."""
    text = _plain_characters(text)
    text = _LINKS.sub(LINK, text)
    text = _SLUR.sub(MASK, text)
    text = re.sub(rf"@(?!{GAP})", f"@{GAP}", text)
    text = _TAGS.sub(f"<{GAP}", text)
    text = _LINE_STARTS.sub(lambda match: GAP if not match.string.startswith(GAP, match.start()) else "", text)
    text = _without_fences(text)
    return re.sub(r"\n{3,}", "\n\n", text)


def is_unwelcome(text: str) -> bool:
    """Say whether a text holds a slur, a link or one of Discord's tags: no model should learn to write them."""
    lowered = text.lower()
    may_link = any(part in lowered for part in _IN_LINKS)  # most texts have none of these, and the search is slow
    return bool((may_link and _LINKS.search(text)) or _SLUR.search(text) or _TAGS.search(text))


def inline(text: str, limit: int = 200) -> str:
    """One safe line for a list, a title or a quotation, cut with an ellipsis; formatting is shown, not applied."""
    line = " ".join(sanitise(text).split())
    line = re.sub(r"([*_~|`\\])", r"\\\1", line)
    return line if len(line) <= limit else line[: limit - 1].rstrip("\\ ") + "…"


def bold(text: str) -> str:
    """Show a safe text in bold, line by line, whatever formatting it contains."""
    lines = [re.sub(r"([*_~|`\\])", r"\\\1", line.strip()) for line in sanitise(text).splitlines()]
    return "\n".join(f"**{line}**" if line else "" for line in lines).strip()


def split(text: str, limit: int = MESSAGE_LIMIT) -> list[str]:
    """Cut a text into messages of at most `limit` characters, at a line or word end where there is one near.

    As a text grows, every part but the last stays as it was.
    """
    parts = []
    while len(text) > limit:
        cut = max(text.rfind("\n", limit // 2, limit), text.rfind(" ", limit // 2, limit))
        cut = cut if cut > 0 else limit
        parts.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [part for part in [*parts, text] if part]


def _plain_characters(text: str) -> str:
    """Drop what cannot be seen (controls, zero width, bidi, tags), lone surrogates and towers of accents."""
    kept: list[str] = []
    run = 0
    for char in text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n"):
        category = unicodedata.category(char)
        run = run + 1 if category in ("Mn", "Me") else 0
        if char in "\n\t" or _joins_emoji(char, kept):
            kept.append(char)
        elif category == "Cs":
            kept.append("�")
        elif char in "\u115f\u1160\u3164\uffa0" or run > _COMBINING_RUN:
            continue
        elif category not in ("Cc", "Cf", "Co", "Cn") or (char == GAP and kept and kept[-1] in "@<"):
            kept.append(char)
    return "".join(kept)


def _joins_emoji(char: str, before: list[str]) -> bool:
    """Zero width joiners belong inside emoji, and nowhere else."""
    return char == "\u200d" and bool(before) and (ord(before[-1]) >= 0x1F000 or before[-1] in "\ufe0f♂♀❤⚕⚖✈")


def _without_fences(text: str) -> str:
    """Turn code fences into plain quotes, and close a code span or spoiler that was left open."""
    text = re.sub(r"`{2,}", "''", text)
    for mark in ("`", "||"):
        if text.count(mark) % 2:
            place = text.rindex(mark)
            text = text[:place] + {"`": "'", "||": "|"}[mark] + text[place + len(mark) :]
    return text
