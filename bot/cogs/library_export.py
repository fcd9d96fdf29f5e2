"""`/jokes export`: a server's jokes as a JSONL file, the one that `punchline export` writes. No names, no ids."""

import io

import discord

from bot.errors import BadInput
from bot.exporting import json_line
from bot.store import Store

FILE_NAME = "jokes.jsonl"
MAY_NOT_ATTACH = (
    "I may not attach files here. Give me the permission Attach Files in this channel, or use `/jokes export`, which"
    " needs none."
)


async def export_file(store: Store, guild_id: int, limit_bytes: int) -> tuple[discord.File, int]:
    """Write all jokes of a server to a file to attach; return it and how many they are. Raises BadInput."""
    content, count = io.BytesIO(), 0
    async for joke in store.bulk.all(guild_id):
        content.write(json_line(joke).encode())
        count += 1
        if content.tell() > limit_bytes:
            raise BadInput(
                f"This server's jokes take more than the {limit_bytes / 2**20:.0f} MiB that Discord lets me attach."
                f" The bot's operator can write them to a file: `punchline export jokes.jsonl --guild {guild_id}`."
            )
    if not count:
        raise BadInput("There are no jokes here to export yet. `/addjoke` adds one.")
    content.seek(0)
    return discord.File(content, FILE_NAME), count
