"""Forms (Discord's modals): checked when the bot opens one, read when a person submits it."""

from typing import Any

from bot.playground.commands import ATTACHMENT, CHANNEL_OPTION, MENTIONABLE, ROLE, USER_OPTION, Chosen
from bot.playground.errors import FormError
from bot.playground.limits import SELECTS, check_count, check_length, walk

Json = dict[str, Any]

ROW, TEXT_INPUT, TEXT_DISPLAY, LABEL, FILE_UPLOAD, RADIO, CHECKBOXES, CHECKBOX = 1, 4, 10, 18, 19, 21, 22, 23
SELECT_TO_OPTION = {5: USER_OPTION, 6: ROLE, 7: MENTIONABLE, 8: CHANNEL_OPTION}


def check_form(body: object) -> Json:
    """A form's title, id and one to five parts, each numbered."""
    if not isinstance(body, dict):
        raise FormError("data", "BASE_TYPE_REQUIRED", "This field is required")
    check_length("data.title", body.get("title"), 45, 1)
    check_length("data.custom_id", body.get("custom_id"), 100, 1)
    components = check_count("data.components", body.get("components"), 5, 1)
    for number, component in enumerate(walk(components), start=1):
        component.setdefault("id", number)
        if component.get("type") in (ROW, LABEL, TEXT_DISPLAY):
            continue
        check_length("data.components.custom_id", component.get("custom_id"), 100, 1)
        if component["type"] == TEXT_INPUT and component.get("label") is not None:
            check_length("data.components.label", component["label"], 45, 1)
    for component in components:
        if component["type"] == LABEL:
            check_length("data.components.label", component.get("label"), 45, 1)
    return {"title": body["title"], "custom_id": body["custom_id"], "components": components}


def read_form(form: Json, given: object, chosen: Chosen) -> list[Json]:
    """The submitted parts in the shape of the form, each value checked against its limits."""
    entries = {e["custom_id"]: e for e in walk(given if isinstance(given, list) else []) if e.get("custom_id")}
    return [_part(component, entries, chosen) for component in form["components"]]


def _part(component: Json, entries: dict[str, Json], chosen: Chosen) -> Json:
    part: Json = {"type": component["type"], "id": component["id"]}
    if component["type"] == ROW:
        return part | {"components": [_part(inner, entries, chosen) for inner in component["components"]]}
    if component["type"] == LABEL:
        return part | {"component": _part(component["component"], entries, chosen)}
    if component["type"] == TEXT_DISPLAY:
        return part
    entry = entries.get(component["custom_id"], {})
    return part | {"custom_id": component["custom_id"]} | _value(component, entry, chosen)


def _value(component: Json, entry: Json, chosen: Chosen) -> Json:
    kind, path = component["type"], f"data.components.{component['custom_id']}"
    if kind == TEXT_INPUT:
        return {"value": _text(path, component, entry.get("value") or "")}
    if kind in SELECTS:
        return {"values": select_values(path, component, entry.get("values"), chosen)}
    if kind == FILE_UPLOAD:
        most, least = component.get("max_values", 1), _least(component)
        picked = check_count(path, entry.get("values") or [], most, least)
        return {"values": [chosen.resolve(path, ATTACHMENT, value) for value in picked]}
    if kind == CHECKBOX:
        return {"value": bool(entry.get("value"))}
    known = {option["value"] for option in component.get("options") or []}
    if kind == RADIO:
        value = entry.get("value")
        if value not in known and (value is not None or component.get("required", True)):
            raise FormError(path, "BASE_TYPE_CHOICES", "Value must be one of the choices.")
        return {"value": value}
    picked = check_count(path, entry.get("values") or [], component.get("max_values", len(known)), _least(component))
    if not known.issuperset(picked):
        raise FormError(path, "BASE_TYPE_CHOICES", "Value must be one of the choices.")
    return {"values": picked}


def _least(component: Json) -> int:
    least: int = component.get("min_values", 1)
    return least if component.get("required", True) else 0


def _text(path: str, component: Json, value: object) -> str:
    required = component.get("required", True)
    least = component.get("min_length") or (1 if required else 0)
    check_length(path, value, component.get("max_length") or 4_000, least if value or required else 0)
    return str(value)


def select_values(path: str, select: Json, values: object, chosen: Chosen) -> list[str]:
    """What was picked in a select, within its options and its least and most."""
    picked = [str(v) for v in check_count(path, values or [], select.get("max_values", 1), _least(select))]
    if select["type"] == 3:
        known = {option["value"] for option in select["options"]}
        if not known.issuperset(picked):
            raise FormError(path, "BASE_TYPE_CHOICES", "Value must be one of the choices.")
        return picked
    return [chosen.resolve(path, SELECT_TO_OPTION[select["type"]], value) for value in picked]
