"""Discord's limits on what a message may hold, refused in Discord's words (50035, with the field)."""

from collections.abc import Iterator
from typing import Any

from bot.playground.errors import FormError

Json = dict[str, Any]

MAX_CONTENT = 2_000
MAX_EMBEDS = 10
MAX_EMBED_TOTAL = 6_000
MAX_COMPONENTS_V2 = 40
MAX_FILES = 10
MAX_FILE_BYTES = 10 * 1024 * 1024

EMBED_LIMITS = {"title": 256, "description": 4_096}
SELECTS = (3, 5, 6, 7, 8)


def check_length(field: str, value: object, most: int, least: int = 0) -> None:
    """Refuse what is not a text of `least` to `most` characters."""
    if not isinstance(value, str):
        raise FormError(field, "STRING_TYPE_CONVERT", "Could not interpret value as string.")
    if len(value) < least:
        if least == 1:
            raise FormError(field, "BASE_TYPE_REQUIRED", "This field is required")
        raise FormError(field, "BASE_TYPE_MIN_LENGTH", f"Must be {least} or more in length.")
    if len(value) > most:
        raise FormError(field, "BASE_TYPE_MAX_LENGTH", f"Must be {most} or fewer in length.")


def check_count(field: str, items: object, most: int, least: int = 0) -> list[Any]:
    """Refuse what is not a list of `least` to `most` things; returns the list."""
    if not isinstance(items, list):
        raise FormError(field, "LIST_TYPE_CONVERT", "Only iterables may be used in a ListType")
    if not least <= len(items) <= most:
        wanted = f"{most} or fewer" if len(items) > most else f"{least} or more"
        raise FormError(field, "BASE_TYPE_BAD_LENGTH", f"Must be {wanted} in length.")
    return items


def check_content(content: object) -> str:
    """The text of a message: at most 2,000 characters."""
    if content is None:
        return ""
    check_length("content", content, MAX_CONTENT)
    return str(content).strip()


def check_embeds(embeds: object) -> list[Json]:
    """The embeds of a message, each rich; at most 6,000 characters in all."""
    checked: list[Json] = []
    for index, embed in enumerate(check_count("embeds", embeds or [], MAX_EMBEDS)):
        if not isinstance(embed, dict):
            raise FormError(f"embeds.{index}", "MODEL_TYPE_CONVERT", "Only dictionaries may be used in a ModelType")
        _check_embed(f"embeds.{index}", embed)
        checked.append({**embed, "type": "rich"})
    if sum(len(text) for embed in checked for text in _texts(embed)) > MAX_EMBED_TOTAL:
        raise FormError("embeds", "MAX_EMBED_SIZE_EXCEEDED", f"Embed size exceeds maximum size of {MAX_EMBED_TOTAL}")
    return checked


def _check_embed(path: str, embed: Json) -> None:
    for name, most in EMBED_LIMITS.items():
        if embed.get(name) is not None:
            check_length(f"{path}.{name}", embed[name], most)
    if embed.get("footer"):
        check_length(f"{path}.footer.text", embed["footer"].get("text", ""), 2_048)
    if embed.get("author"):
        check_length(f"{path}.author.name", embed["author"].get("name", ""), 256, 1)
    for number, entry in enumerate(check_count(f"{path}.fields", embed.get("fields") or [], 25)):
        check_length(f"{path}.fields.{number}.name", entry.get("name", ""), 256, 1)
        check_length(f"{path}.fields.{number}.value", entry.get("value", ""), 1_024, 1)
    shown = ("title", "description", "fields", "image", "thumbnail", "author", "footer")
    if not any(embed.get(name) for name in shown):
        raise FormError(f"{path}.description", "BASE_TYPE_REQUIRED", "This field is required")


def _texts(embed: Json) -> Iterator[str]:
    yield embed.get("title") or ""
    yield embed.get("description") or ""
    yield (embed.get("footer") or {}).get("text", "")
    yield (embed.get("author") or {}).get("name", "")
    for entry in embed.get("fields") or []:
        yield entry["name"] + entry["value"]


def walk(components: list[Json]) -> Iterator[Json]:
    """Every component, outer before inner."""
    for component in components:
        yield component
        yield from walk(component.get("components") or [])
        for name in ("accessory", "component"):
            if component.get(name):
                yield from walk([component[name]])


def check_components(components: object, *, v2: bool) -> list[Json]:
    """Rows of buttons or one select (and with the V2 flag Discord's layout parts), numbered where they have no id."""
    checked = check_count("components", components or [], MAX_COMPONENTS_V2 if v2 else 5)
    every = list(walk(checked))
    if v2 and len(every) > MAX_COMPONENTS_V2:
        raise FormError("components", "COMPONENT_MAX_TOTAL_COMPONENTS_EXCEEDED", "Must be 40 or fewer in length.")
    custom_ids: set[str] = set()
    for number, component in enumerate(every, start=1):
        component.setdefault("id", number)
        _check_component(component)
        custom_id = component.get("custom_id")
        if custom_id in custom_ids:
            raise FormError("components", "COMPONENT_CUSTOM_ID_DUPLICATED", "Component custom id cannot be duplicated")
        if custom_id is not None:
            custom_ids.add(custom_id)
    if not v2 and any(component.get("type") != 1 for component in checked):
        raise FormError("components", "UNION_TYPE_CHOICES", "Value of field must be one of (1,).")
    return checked


def _check_component(component: Json) -> None:
    kind = component.get("type")
    if kind == 1:
        check_count("components.components", component.get("components"), 5, 1)
    elif kind == 2:
        _check_button(component)
    elif kind in SELECTS:
        check_length("components.custom_id", component.get("custom_id"), 100, 1)
        if kind == 3:
            for option in check_count("components.options", component.get("options"), 25, 1):
                check_length("components.options.label", option.get("label"), 100, 1)
                check_length("components.options.value", option.get("value"), 100, 1)


def _check_button(button: Json) -> None:
    if button.get("label") is not None:
        check_length("components.label", button["label"], 80)
    if not button.get("label") and not button.get("emoji"):
        raise FormError("components", "BUTTON_COMPONENT_INVALID_LABEL", "A button must have a label or an emoji")
    if button.get("style") == 5:
        check_length("components.url", button.get("url"), 512, 1)
    else:
        check_length("components.custom_id", button.get("custom_id"), 100, 1)
