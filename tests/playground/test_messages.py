"""Messages, between people and an unmodified discord.py."""

from typing import Any

import discord
import pytest

from tests.playground.stage import PNG, open_stage
from tests.support.people import Refused


def from_bot(message: dict[str, Any]) -> bool:
    return bool(message["author"]["bot"] and message["content"])


async def test_a_prefix_command_is_answered_and_the_answer_grows() -> None:
    async with open_stage() as stage:
        await stage.robin.say("!joke dogs")
        answer = await stage.robin.wait_for(lambda m: m["content"] == "A long joke about dogs")
        assert [m["content"] for m in stage.robin.versions[answer["id"]]] == [
            "A joke about dogs",
            "A long joke about dogs",
        ]
        assert answer["edited_timestamp"] is not None
        assert (await stage.morgan.messages())[0]["content"] == "A long joke about dogs"


async def test_a_reply_names_its_message_and_pings_nobody_unless_allowed() -> None:
    async with open_stage() as stage:
        question = await stage.robin.say("!paint")
        answer = await stage.robin.wait_for(lambda m: m["author"]["bot"])
        assert answer["message_reference"]["message_id"] == question
        assert answer["referenced_message"]["content"] == "!paint"
        assert answer["mentions"] == []
        again = await stage.morgan.say("nice", reply_to=answer["id"])
        thanks = await stage.robin.wait_for(lambda m: m["id"] == again)
        assert [user["username"] for user in thanks["mentions"]] == ["Punchline"]


async def test_a_file_in_an_embed_arrives_byte_for_byte() -> None:
    async with open_stage() as stage:
        await stage.robin.say("!paint")
        answer = await stage.robin.wait_for(lambda m: m["embeds"])
        [embed], [attachment] = answer["embeds"], answer["attachments"]
        assert (attachment["width"], attachment["height"]) == (2, 3)
        assert embed["image"]["url"] == attachment["url"]
        assert embed["fields"] == [{"name": "jokes", "value": "12", "inline": True}]
        async with stage.robin._http.get(attachment["url"]) as response:
            assert await response.read() == PNG
            assert response.content_type == "image/png"


async def test_a_file_from_a_person_is_read_by_the_bot_and_never_runs_in_the_page() -> None:
    async with open_stage() as stage:
        sent = await stage.robin.say("look", files={"evil.svg": b"<svg onload='alert(1)'/>", "jokes.txt": b"ha"})
        heard = await stage.bot.get_channel(int(stage.robin.channel_id)).fetch_message(int(sent))  # type: ignore[union-attr]
        svg, text = heard.attachments
        assert await text.read() == b"ha"
        async with stage.robin._http.get(svg.url) as response:
            assert response.content_type == "application/octet-stream"
            assert "sandbox" in response.headers["Content-Security-Policy"]
            assert response.headers["Content-Disposition"].startswith("attachment")


async def test_reactions_reach_the_bot_and_everybody_sees_the_count() -> None:
    async with open_stage() as stage:
        sent = await stage.robin.say("funny")
        await stage.morgan.react(sent, "😂")
        await stage.morgan.react(sent, "😂")
        await stage.robin.react(sent, "😂")
        await stage.robin.wait_for_event("MESSAGE_REACTION_ADD", user_id=stage.robin.id)
        [reaction] = (await stage.robin.messages())[0]["reactions"]
        assert (reaction["emoji"]["name"], reaction["count"], reaction["me"]) == ("😂", 2, True)
        await stage.robin.unreact(sent, "😂")
        message = await stage.bot.get_channel(int(stage.robin.channel_id)).fetch_message(int(sent))  # type: ignore[union-attr]
        assert [(str(r.emoji), r.count) for r in message.reactions] == [("😂", 1)]
        assert stage.comedy.reactions == [("Morgan", "😂"), ("Robin", "😂")]


async def test_a_deleted_message_is_gone_for_everybody() -> None:
    async with open_stage() as stage:
        sent = await stage.robin.say("oops")
        with pytest.raises(Refused) as refused:
            await stage.robin.request("DELETE", f"/channels/{stage.robin.channel_id}/messages/{int(sent) + 1}")
        assert (refused.value.status, refused.value.code) == (404, 10008)
        await stage.robin.delete(sent)
        await stage.morgan.wait_for_event("MESSAGE_DELETE", id=sent)
        assert await stage.morgan.messages() == []


async def test_moderators_delete_what_others_wrote_and_members_do_not() -> None:
    async with open_stage() as stage:
        mine, yours = await stage.robin.say("mine"), await stage.morgan.say("yours")
        with pytest.raises(Refused) as refused:
            await stage.robin.delete(yours)
        assert (refused.value.status, refused.value.code) == (403, 50013)
        await stage.morgan.delete(mine)
        path = f"/channels/{stage.robin.channel_id}/messages/{yours}"
        with pytest.raises(Refused) as refused:
            await stage.robin.request("PATCH", path, json={"content": "hers"})
        assert (refused.value.status, refused.value.code) == (403, 50005)


async def test_direct_messages_are_between_two_and_need_no_prefix_permission() -> None:
    async with open_stage(message_content=False) as stage:
        channel_id = await stage.robin.open_direct(str(stage.playground.application_id))
        stage.robin.channel_id = channel_id
        await stage.robin.say("!joke ghosts")
        await stage.robin.wait_for(lambda m: m["content"] == "A long joke about ghosts")
        stage.morgan.channel_id = channel_id
        with pytest.raises(Refused) as refused:
            await stage.morgan.messages()
        assert refused.value.status == 403


async def test_without_the_content_intent_the_bot_reads_only_what_is_addressed_to_it() -> None:
    async with open_stage(message_content=False) as stage:
        hidden = await stage.robin.say("!joke")
        plain = await stage.robin.say(f"<@{stage.playground.application_id}> joke fish")
        await stage.robin.wait_for(lambda m: m["content"] == "A long joke about fish")
        contents = {message.id: message.content for message in stage.comedy.heard}
        assert contents[int(hidden)] == ""
        assert contents[int(plain)].endswith("joke fish")


async def test_rate_limits_are_waited_out_by_discord_py() -> None:
    async with open_stage() as stage:
        stage.playground.limit_next(2, retry_after_s=0.02)
        await stage.robin.say("!joke bees")
        await stage.robin.wait_for(lambda m: m["content"] == "A long joke about bees")


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({"content": "x" * 2001}, "content", "BASE_TYPE_MAX_LENGTH"),
        ({"embeds": [{"title": "x" * 257}]}, "embeds.0.title", "BASE_TYPE_MAX_LENGTH"),
        ({"embeds": [{"description": "x" * 4000}] * 2}, "embeds", "MAX_EMBED_SIZE_EXCEEDED"),
        ({"embeds": [{}]}, "embeds.0.description", "BASE_TYPE_REQUIRED"),
        ({"content": "x", "message_reference": {"message_id": "5"}}, "message_reference", "MESSAGE_REFERENCE"),
        (
            {"content": "x", "components": [{"type": 2, "label": "a", "custom_id": "b", "style": 1}]},
            "components",
            "UNI",
        ),
        ({"content": 7}, "content", "STRING_TYPE_CONVERT"),
    ],
)
async def test_discords_limits_are_refused_by_field(body: dict[str, Any], field: str, code: str) -> None:
    async with open_stage() as stage:
        with pytest.raises(Refused) as refused:
            await stage.robin.request("POST", f"/channels/{stage.robin.channel_id}/messages", json=body)
        assert (refused.value.status, refused.value.code) == (400, 50035)
        errors = refused.value.body["errors"]
        for part in field.split("."):
            errors = errors[part]
        assert errors["_errors"][0]["code"].startswith(code)


async def test_an_empty_message_is_refused() -> None:
    async with open_stage() as stage:
        with pytest.raises(Refused) as refused:
            await stage.robin.say("  ")
        assert refused.value.code == 50006


async def test_the_bot_may_not_write_where_its_role_does_not_allow_it() -> None:
    async with open_stage() as stage:
        channel = discord.utils.get(stage.bot.get_all_channels(), name="announcements")
        assert isinstance(channel, discord.TextChannel)
        assert not channel.permissions_for(channel.guild.me).send_messages
        with pytest.raises(discord.Forbidden) as refused:
            await channel.send("news")
        assert refused.value.code == 50013


async def test_members_do_not_see_the_moderators_channel() -> None:
    async with open_stage() as stage:
        names = {person.name: {c["name"] for c in person.guild["channels"]} for person in (stage.robin, stage.morgan)}
        assert names["Morgan"] - names["Robin"] == {"moderators"}
        hidden = next(c["id"] for c in stage.morgan.guild["channels"] if c["name"] == "moderators")
        stage.robin.channel_id = hidden
        with pytest.raises(Refused) as refused:
            await stage.robin.messages()
        assert (refused.value.status, refused.value.code) == (403, 50001)
