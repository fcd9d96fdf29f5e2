"""`punchline ask`: one answer, streamed to the terminal, from the running service or from one started for it."""

import asyncio
import importlib.util
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rich.console import Console

from bot.config import Settings
from bot.connection import address, connect, listening, until_ready
from bot.errors import BotError, ServiceUnavailable
from bot.prompts import Prompt, joke_prompt
from bot.run import keeper, service_program
from bot.service_client import CompletionRequest

START_LIMIT_S = 120.0

_JOKE = re.compile(
    r"(?:please )?(?:(?:tell|give) me )?(?:(?:a|another|one) )?joke(?: about (?P<topic>.+?))?[.!?]*", re.I
)


@dataclass(frozen=True, slots=True)
class Question:
    """What was typed; None means the bot's setting (no seed: a new answer each time)."""

    text: str
    model: str | None = None
    max_tokens: int | None = None
    seed: int | None = None


async def answer(settings: Settings, question: Question) -> int:
    """Print the answer as it comes; returns the exit code. On stderr: how far the model is loaded, a failure."""
    try:
        async with (
            _service(settings),
            connect(settings) as client,
            client.complete(request(settings, question)) as stream,
        ):
            begun, told = False, -1
            async for update in stream:
                if update.loading is not None and (update.loading.percent or 0) // 10 > told:
                    told = (update.loading.percent or 0) // 10  # a line every tenth
                    sys.stderr.write(f"{printable(update.loading.words)}\n")
                text = printable(update.text if begun else update.text.lstrip())
                begun = begun or bool(text)
                sys.stdout.write(text)
                sys.stdout.flush()
    except BotError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write("\n")
    return 0


def request(settings: Settings, question: Question) -> CompletionRequest:
    """Build what to send: a request for a joke becomes the joke prompt, any other text is continued."""
    bot = settings.bot
    joke = _JOKE.fullmatch(question.text.strip())
    model = question.model or (bot.joke_model if joke else bot.complete_model)
    prompt = joke_prompt(model, joke["topic"]) if joke else Prompt(question.text, ())
    return CompletionRequest(
        model=model,
        prompt=prompt.text,
        stop=prompt.stop,
        max_tokens=question.max_tokens or (bot.joke_max_tokens if joke else bot.complete_max_tokens),
        temperature=bot.temperature,
        top_p=bot.top_p,
        seed=question.seed,
    )


def printable(text: str) -> str:
    """Drop what would steer the terminal instead of being shown."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


@asynccontextmanager
async def _service(settings: Settings) -> AsyncIterator[None]:
    """Have a service that answers: the one that runs, or one of our own until the block ends."""
    if await listening(settings):
        async with asyncio.timeout(START_LIMIT_S):
            await until_ready(settings)
        yield
        return
    nobody = f"No model service answers at {address(settings)}."
    if settings.service.host is not None:
        raise ServiceUnavailable(f"{nobody} Start it there with `punchline serve`.")
    if importlib.util.find_spec("torch") is None:
        raise ServiceUnavailable(f"{nobody} It is not installed here either: pip install 'punchline[service]'")
    err = Console(stderr=True, soft_wrap=True, highlight=False)
    keeping = asyncio.create_task(keeper(service_program(os.environ), settings, err).run(), name="service-keeper")
    ready = asyncio.create_task(until_ready(settings), name="service-ready")
    try:
        with err.status("Starting the models for this one answer (`make run` keeps them) ..."):
            done, _ = await asyncio.wait([keeping, ready], timeout=START_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        if ready not in done:
            raise ServiceUnavailable(f"The model service could not start. Its log: {settings.home}/logs/service.log")
        yield
    finally:
        keeping.cancel()
        ready.cancel()
        await asyncio.wait([keeping, ready])
