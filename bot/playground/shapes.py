"""The JSON type of every field the playground looks into, checked once for each body, so no route meets a surprise.

Discord uses a name for one shape throughout; null stands for "not given" everywhere.
"""

from typing import Any

from bot.playground.errors import ApiError, FormError

OBJECTS = [
    "accessory",
    "allowed_mentions",
    "author",
    "component",
    "data",
    "emoji",
    "file",
    "footer",
    "image",
    "media",
    "message_reference",
    "thumbnail",
    "video",
]
LISTS_OF_OBJECTS = [
    "attachments",
    "choices",
    "components",
    "default_values",
    "embeds",
    "fields",
    "items",
    "options",
    "application_commands",
]
LISTS = [
    "channel_types",
    "contexts",
    "integration_types",
    "messages",
    "parse",
    "recipients",
    "roles",
    "user_ids",
    "users",
    "values",
]
NUMBERS = ["accent_color", "flags", "max_length", "max_values", "min_length", "min_values", "spacing", "style"]
TEXTS = ["custom_id", "filename", "icon_url", "label", "placeholder", "title", "url"]

KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    **{name: ((dict,), "Only dictionaries may be used in a ModelType") for name in OBJECTS},
    **{name: ((list,), "Only iterables may be used in a ListType") for name in (*LISTS_OF_OBJECTS, *LISTS)},
    **{name: ((int,), "Value is not int.") for name in NUMBERS},
    **{name: ((str,), "Could not interpret value as string.") for name in TEXTS},
    "type": ((int, str), "Value is not int."),  # an embed's type is a word
}
SCALARS = (str, int, float)


def check_shape(body: Any) -> Any:
    """Return the body if it is an object or a list of objects with fields of the right types, else refuse it."""
    if isinstance(body, dict):
        _check_object("", body)
    elif isinstance(body, list):
        _check_list("", body, objects=True)
    else:
        raise ApiError(400, 50109, "The request body contains invalid JSON.")
    return body


def _check_object(path: str, body: dict[str, Any]) -> None:
    for name, value in body.items():
        here = f"{path}{name}"
        if value is None:
            continue
        if name in KINDS and not isinstance(value, KINDS[name][0]):
            raise FormError(here, "MODEL_TYPE_CONVERT", KINDS[name][1])
        if isinstance(value, dict):
            _check_object(f"{here}.", value)
        elif isinstance(value, list):
            _check_list(f"{here}.", value, objects=name in LISTS_OF_OBJECTS)


def _check_list(path: str, values: list[Any], *, objects: bool) -> None:
    for index, value in enumerate(values):
        if objects and not isinstance(value, dict):
            raise FormError(f"{path}{index}", "MODEL_TYPE_CONVERT", "Only dictionaries may be used in a ModelType")
        if isinstance(value, dict):
            _check_object(f"{path}{index}.", value)
        elif not objects and not isinstance(value, SCALARS):
            raise FormError(f"{path}{index}", "BASE_TYPE_CONVERT", "Only plain values may stand here.")
