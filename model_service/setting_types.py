"""Kinds of settings that pydantic does not have: an amount of memory, and the name of a device."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from model_service.byte_sizes import read_size


def _size(amount: object) -> int:
    """Read an amount of memory; the line names the rule and not what was given."""
    try:
        return read_size(str(amount))
    except ValueError:
        raise ValueError("must be an amount of memory, like 10GiB or 512MB") from None


def _device(name: str) -> str:
    if not re.fullmatch(r"cuda:\d+|cpu(:\d+)?", name):
        raise ValueError("must name devices as cuda:0, cpu, or cpu:0 and cpu:1 for parts of the CPU's memory")
    return name


def _some(names: list[str]) -> list[str]:
    if not names:
        raise ValueError("name at least one device")
    return names


Size = Annotated[int, BeforeValidator(_size)]
Device = Annotated[str, AfterValidator(_device)]
Devices = Annotated[list[str], AfterValidator(_some)]
