"""The gateway's protocol: who gets in, what breaks, and how discord.py comes back."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import discord
import pytest

from bot.playground import Playground
from bot.playground.redirect import redirect
from tests.playground.stage import make_bot, open_stage, running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def closing_code(http: aiohttp.ClientSession, playground: Playground, frame: object, query: str = "v=10") -> int:
    async with http.ws_connect(f"{playground.gateway_url}?{query}") as socket:
        assert (await socket.receive_json())["op"] == 10
        await (socket.send_str(frame) if isinstance(frame, str) else socket.send_json(frame))
        async with asyncio.timeout(2):
            while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        assert socket.close_code is not None
        return socket.close_code


async def test_the_content_intent_is_refused_with_4014_unless_the_application_has_it() -> None:
    async with Playground(port=0) as playground:
        playground.allow_message_content(False)
        with pytest.raises(discord.PrivilegedIntentsRequired):
            async with running(make_bot(), playground):
                pass
        async with running(make_bot(message_content=False), playground) as bot:
            application = await bot.application_info()
            assert not application.flags.gateway_message_content_limited


@pytest.mark.parametrize(
    ("frame", "query", "code"),
    [
        ({"op": 2, "d": {"token": "wrong", "intents": 0}}, "v=10", 4004),
        ({"op": 3, "d": {}}, "v=10", 4003),
        ("{not json", "v=10", 4002),
        ([], "v=10", 4002),
        ({"op": 2, "d": {}}, "v=6", 4012),
    ],
)
async def test_broken_frames_close_with_discords_codes(
    http: aiohttp.ClientSession, frame: object, query: str, code: int
) -> None:
    async with Playground(port=0) as playground:
        assert await closing_code(http, playground, frame, query) == code


async def test_an_unknown_bot_token_is_a_login_failure() -> None:
    async with Playground(port=0) as playground:
        bot = make_bot()
        with redirect(playground.base_url):
            async with bot:
                with pytest.raises(discord.LoginFailure):
                    await bot.start("not.the.token")


async def test_discord_py_resumes_and_hears_what_it_missed() -> None:
    async with open_stage() as stage:
        resumed = asyncio.Event()

        async def on_resumed() -> None:
            resumed.set()

        stage.bot.add_listener(on_resumed)
        await stage.playground.drop_bot()
        await stage.robin.say("!joke trains")
        async with asyncio.timeout(15):
            await resumed.wait()
        await stage.robin.wait_for(lambda m: m["content"] == "A long joke about trains")


async def test_members_can_be_asked_for_by_name_and_id() -> None:
    async with open_stage(presences=False) as stage:
        [guild] = stage.bot.guilds
        assert {member.display_name for member in guild.members} == {"Robin", "Morgan", "Punchline"}
        assert [m.display_name for m in await guild.query_members("mor", limit=5)] == ["Morgan"]
        assert [m.id for m in await guild.query_members(user_ids=[int(stage.robin.id)])] == [int(stage.robin.id)]


async def test_the_guild_looks_to_discord_py_as_it_should() -> None:
    async with open_stage() as stage:
        [guild] = stage.bot.guilds
        robin, morgan = (guild.get_member(int(person.id)) for person in (stage.robin, stage.morgan))
        assert robin is not None
        assert morgan is not None
        assert morgan.guild_permissions.manage_guild
        assert not robin.guild_permissions.manage_guild
        assert guild.me.guild_permissions.attach_files
        assert guild.me.status is discord.Status.online
        assert [channel.name for channel in guild.text_channels][:3] == ["general", "jokes", "bot-testing"]
        assert await stage.bot.is_owner(morgan)
        assert robin.display_avatar.url.startswith(stage.playground.base_url)
        assert (await robin.display_avatar.read()).startswith(b"<svg")


async def test_typing_is_shown() -> None:
    async with open_stage() as stage:
        channel = stage.bot.get_channel(int(stage.robin.channel_id))
        assert isinstance(channel, discord.TextChannel)
        async with channel.typing():
            await stage.robin.wait_for_event("TYPING_START", user_id=str(stage.playground.application_id))


async def test_discord_py_measures_the_round_trip_not_the_time_since_the_last_heartbeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    latencies: asyncio.Queue[float] = asyncio.Queue()
    acknowledge = discord.gateway.KeepAliveHandler.ack

    def ack(keeper: discord.gateway.KeepAliveHandler) -> None:
        acknowledge(keeper)
        latencies.put_nowait(keeper.latency)

    monkeypatch.setattr(discord.gateway.KeepAliveHandler, "ack", ack)
    monkeypatch.setattr("bot.playground.gateway.HEARTBEAT_INTERVAL_MS", 2000)
    async with Playground(port=0) as playground, running(make_bot(), playground):
        async with asyncio.timeout(20):
            seen = [await latencies.get() for _ in range(3)]
        assert max(seen) < 1
