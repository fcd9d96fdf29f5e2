"""Says which texts the bot would not show as they are: slurs and links. No torch here.

The bot hides these words and addresses wherever it shows a text (`bot.ui.text`); here they are only counted, so that a
model that learned them is seen before it is used. Both sides are held to each other by a test.
"""

import codecs
import re

# Rot13, so that nobody has to read them here. A floor, not a judge of taste.
_ROT13 = "avttre avttn snttbg snt xvxr puvax fcvp jrgonpx genaal ergneq tbbx entrurnq orna(?:re|ref) qlxr xnssve cnxv"
_LOOKALIKES = {"a": "a4@", "e": "e3", "g": "g69", "i": "i1!|", "o": "o0", "s": "s5$", "t": "t7"}


def words() -> list[str]:
    """Return the words as patterns: letters, and alternatives in brackets."""
    return codecs.decode(_ROT13, "rot13").split()


def _spelled(word: str) -> str:
    return "".join(f"[{re.escape(_LOOKALIKES[c])}]" if c in _LOOKALIKES else c for c in word)


_HELD_BACK = re.compile(
    r"(?<!\w)(?:" + "|".join(word if "(" in word else _spelled(word) for word in words()) + r")(?:e?s|ed|z)?(?!\w)"
    r"|\b[a-z][a-z0-9+.-]{1,20}://\S"
    r"|\bwww\.\S"
    r"|\bdiscord(?:app)?\s*\.\s*(?:gg|com|io|me|li)"
    r"|\bdsc\.gg/\S",
    re.IGNORECASE,
)


def is_held_back(text: str) -> bool:
    """Say whether the bot would hide a part of this text."""
    return _HELD_BACK.search(text) is not None
