"""Checks of single fields, each with one sentence for what is wrong. No torch here.

They run before pydantic's own: where a field may have several shapes, pydantic alone would complain once per shape.
The sentences never repeat the value, which may be anything.
"""

from typing import Any

from pydantic_core import PydanticCustomError

MAX_STOPS = 16
MAX_STOP_CHARS = 200
MAX_BIASES = 1024
MAX_CLASSIFY_TEXTS = 1024


def wrong(message: str, param: str = "") -> PydanticCustomError:
    """Build a validation error that says `message`; `param` names the field where pydantic cannot know it."""
    return PydanticCustomError("wrong", "{message}", {"message": message, "param": param})


def check_text(text: Any) -> Any:
    """Refuse half of a surrogate pair, which JSON can spell but no text holds."""
    if not isinstance(text, str):
        raise wrong("it must be a text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise wrong("the text holds half of a surrogate pair, which is not valid Unicode") from None
    return text


def check_prompt(prompt: Any) -> Any:
    """Accept a text, texts, token ids, or lists of token ids; say in one sentence what else there was."""
    if isinstance(prompt, str):
        return check_text(prompt)
    shape = "prompt must be a text, a list of texts, a list of token ids, or a list of lists of token ids"
    if not isinstance(prompt, list):
        raise wrong(shape)
    if not prompt:
        raise wrong("prompt is an empty list: it needs at least one text or token id")
    if all(isinstance(item, str) for item in prompt):
        for item in prompt:
            check_text(item)
    elif all(isinstance(item, list) for item in prompt):
        if not all(is_token_id(token) for item in prompt for token in item):
            raise wrong(shape)
    elif not all(is_token_id(item) for item in prompt):
        raise wrong(shape)
    return prompt


def is_token_id(value: Any) -> bool:
    """Whether it is a whole number at all; each model has its own range."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_stop(stop: Any) -> Any:
    """Turn one stop string into a list of one; refuse empty ones, which would stop everything."""
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(item, str) for item in stops):
        raise wrong("stop must be a text or a list of texts")
    if len(stops) > MAX_STOPS:
        raise wrong(f"stop may hold at most {MAX_STOPS} texts, not {len(stops)}")
    if any(not 1 <= len(item) <= MAX_STOP_CHARS for item in stops):
        raise wrong(f"each stop text needs 1 to {MAX_STOP_CHARS} characters")
    return [check_text(item) for item in stops]


def check_bias(bias: Any) -> Any:
    """Turn OpenAI's `{"50256": -100}` into whole token ids; values stay within -100 and 100."""
    if not isinstance(bias, dict) or len(bias) > MAX_BIASES:
        raise wrong(f"logit_bias must be an object of at most {MAX_BIASES} token ids with a bias each")
    if not all(isinstance(token, str) and token.isascii() and token.isdecimal() and len(token) < 10 for token in bias):
        raise wrong('the keys of logit_bias must be token ids, like "50256"')
    values = bias.values()
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and -100 <= v <= 100 for v in values):
        raise wrong("the values of logit_bias must be numbers from -100 to 100")
    return {int(token): float(value) for token, value in bias.items()}


def check_input(texts: Any) -> Any:
    """Turn one text into a list of one."""
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise wrong("input must be a text or a list of at least one text")
    if len(texts) > MAX_CLASSIFY_TEXTS:
        raise wrong(f"input may hold at most {MAX_CLASSIFY_TEXTS} texts, not {len(texts)}")
    return [check_text(text) for text in texts]
