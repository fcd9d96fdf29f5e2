"""Reads settings from their three places and says in one line each what is wrong with them.

    punchline.toml  <  .env  <  environment      the later source wins; an empty value counts as unset

Names come from the settings class itself, so a new field is known everywhere at once. A relative path
is relative to the file it stands in (in the environment: to the working directory). Nothing here
prints or keeps a value: the lines name the setting and the rule, never what was given.
"""

import difflib
import json
import tomllib
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

PREFIX = "PUNCHLINE_"
FILE_NAME = "punchline.toml"
TOP_LEVEL_VARIABLES = {"PUNCHLINE_HOME": "home"}  # the only settings outside a section that the environment may set


class SettingsError(Exception):
    """The settings cannot be used; `lines` holds one sentence for each thing to put right."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def read_file(model: type[BaseModel], path: Path) -> dict[str, Any]:
    """Return the values of a TOML file; raises SettingsError if it cannot be read or parsed."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise SettingsError([f"{path}: is not UTF-8 text"]) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{path}: {str(error)[0].lower()}{str(error)[1:]}"]) from error
    anchored: dict[str, Any] = anchor_paths(model, without_empty(values), path.parent.absolute())
    return anchored


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables of a `.env` file; none if there is no such file."""
    if not path.is_file():
        return {}
    try:
        return {name: value for name, value in dotenv_values(path, encoding="utf-8-sig").items() if value is not None}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: cannot be read: {error}"]) from error


def read_variables(model: type[BaseModel], variables: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Return what the `PUNCHLINE_…` variables set; unknown ones stay at the top under their own name.

    `folder` is what their relative paths start from. Raises SettingsError for a list that is not JSON.
    """
    known = known_variables(model)
    values: dict[str, Any] = {}
    for name, text in variables.items():
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper == "PUNCHLINE_CONFIG":
            continue
        if upper not in known and not _section_of_others(model, upper):
            values[name] = text
        elif text:
            *sections, field = known.get(upper) or tuple(upper.removeprefix(PREFIX).lower().split("__", 1))
            table = values.setdefault(sections[0], {}) if sections else values
            table[field] = _from_text(model, sections, field, text)
    anchored: dict[str, Any] = anchor_paths(model, values, folder.absolute())
    return anchored


def known_variables(model: type[BaseModel]) -> dict[str, tuple[str, ...]]:
    """Map each `PUNCHLINE_…` variable of a settings class to where it stands: `("bot", "prefix")`."""
    names: dict[str, tuple[str, ...]] = {name: (field,) for name, field in TOP_LEVEL_VARIABLES.items()}
    for section, field in model.model_fields.items():
        table = _model_in(field.annotation)
        for name in table.model_fields if table else ():
            names[f"{PREFIX}{section}__{name}".upper()] = (section, name)
    return names


def _section_of_others(model: type[BaseModel], variable: str) -> bool:
    """Say whether a variable belongs to a section that only the other process knows."""
    section, _, rest = variable.removeprefix(PREFIX).lower().partition("__")
    field = model.model_fields.get(section)
    return bool(rest) and field is not None and get_origin(field.annotation) is dict


def _from_text(model: type[BaseModel], sections: list[str], field: str, text: str) -> Any:
    table = _model_in(model.model_fields[sections[0]].annotation) if sections else model
    if table is None or not _is_list(table.model_fields[field].annotation):
        return text
    try:
        return without_empty(json.loads(text))
    except json.JSONDecodeError as error:
        kind = "table" if get_origin(table.model_fields[field].annotation) is dict else "list"
        raise SettingsError([f"{'.'.join([*sections, field])}: must be a {kind} written as JSON"]) from error


def without_empty(value: Any) -> Any:
    """Drop the empty texts of a table, at any depth: they count as unset."""
    if isinstance(value, dict):
        return {name: without_empty(inner) for name, inner in value.items() if inner != ""}
    return [without_empty(inner) for inner in value] if isinstance(value, list) else value


def merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Lay one source over another, table by table; lists are replaced whole."""
    merged = dict(lower)
    for name, value in upper.items():
        below = merged.get(name)
        merged[name] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def anchor_paths(model: type[BaseModel], values: Any, folder: Path) -> Any:
    """Make the relative paths of a table absolute, starting from `folder`; `source` only if it is a folder."""
    if isinstance(values, list):
        return [anchor_paths(model, item, folder) for item in values]
    if not isinstance(values, dict):
        return values
    anchored = dict(values)
    for name, value in values.items():
        field = model.model_fields.get(name)
        if field is None:
            continue
        if (inner := _model_in(field.annotation)) is not None:
            anchored[name] = anchor_paths(inner, value, folder)
        elif isinstance(value, str) and (Path in _parts(field.annotation) or name == "source"):
            path = folder / Path(value).expanduser()
            if name != "source" or path.is_dir() or value.startswith((".", "/", "~")):
                anchored[name] = str(path)
    return anchored


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield an annotation and everything inside it."""
    yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for part in _parts(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _is_list(annotation: Any) -> bool:
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return any(get_origin(option) in (tuple, list, dict) for option in options)


def describe(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Turn pydantic's findings into lines like `bot.edit_interval_s: must be above 0`, one per setting."""
    rules: dict[str, list[str]] = {}
    for found in error.errors(include_input=False, include_url=False):
        name, table = _setting_name(model, found["loc"])
        rule = _rule(found)
        if found["type"] == "extra_forbidden":
            rule = f"there is no such setting{_suggestion(model, name, table)}"
        seen = rules.setdefault(name, [])  # a setting of two kinds has one finding for each
        if rule not in seen:
            seen.append(rule.removeprefix("must be ") if seen else rule)
    return [(f"{name}: " if name else "") + " or ".join(found) for name, found in rules.items()]


def _setting_name(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, type[BaseModel]]:
    """Return the dotted name of an error's place, up to the setting itself, and the table it stands in."""
    name, table = "", model
    for part in loc:
        if isinstance(part, int):
            name += f"[{part}]"
            continue
        name += f".{part}" if name else part
        inner = _model_in(table.model_fields[part].annotation) if part in table.model_fields else None
        if inner is None:
            break
        table = inner
    return name, table


def _suggestion(model: type[BaseModel], name: str, table: type[BaseModel]) -> str:
    """Name the nearest setting, in the spelling that was used: a variable or a name of the file."""
    if name.upper().startswith(PREFIX):
        near = difflib.get_close_matches(name.upper(), [*known_variables(model), "PUNCHLINE_CONFIG"], 1, 0.75)
    else:
        before, _, last = name.rpartition(".")
        near = difflib.get_close_matches(last, table.model_fields, 1, 0.6)
        near = [f"{before}.{near[0]}" if before else near[0]] if near else _elsewhere(model, last)
    return f"; did you mean {near[0]}?" if near else ""


def _elsewhere(model: type[BaseModel], last: str) -> list[str]:
    """Find a setting of that very name in another section."""
    return [".".join(place) for place in known_variables(model).values() if place[-1] == last][:1]


def _rule(found: ErrorDetails) -> str:
    limits = found.get("ctx", {})
    match found["type"]:
        case "greater_than":
            return f"must be above {limits['gt']:g}"
        case "greater_than_equal":
            return f"must be at least {limits['ge']:g}"
        case "less_than":
            return f"must be below {limits['lt']:g}"
        case "less_than_equal":
            return f"must be at most {limits['le']:g}"
        case "string_too_long":
            return f"must have at most {limits['max_length']} characters"
        case "missing":
            return "is missing"
        case "value_error":
            return str(limits["error"])
        case "literal_error":
            return f"must be {limits['expected']}"
        case kind:
            return _KINDS.get(kind, found["msg"])


_KINDS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a text, in quotation marks",
    "string_too_short": "must not be empty",
    "path_type": "must be a path, in quotation marks",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
}
