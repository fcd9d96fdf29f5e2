"""Slash commands, buttons, selects, forms and autocomplete, end to end through discord.py."""

from typing import Any

import discord
import pytest

from tests.playground.stage import open_stage
from tests.support.people import DidNotRespond, Refused


async def test_a_slash_command_is_deferred_then_answered_in_place() -> None:
    async with open_stage() as stage:
        await stage.robin.command("joke", about="owls")
        answer = await stage.morgan.wait_for(lambda m: m["content"] == "A long joke about owls")
        first = stage.morgan.versions[answer["id"]][0]
        assert (first["flags"], first["content"]) == (128, "")
        assert answer["interaction"]["name"] == "joke"
        assert answer["interaction"]["user"]["global_name"] == "Robin"


async def test_options_are_resolved_and_permissions_are_the_persons_own() -> None:
    async with open_stage() as stage:
        await stage.robin.command("who", member=stage.morgan.id, shout=True)
        answer = await stage.robin.wait_for(lambda m: m["content"])
        assert answer["content"] == "Morgan Moderators True False"
        assert answer["flags"] == 64


async def test_an_ephemeral_answer_is_seen_by_one_person_until_dismissed() -> None:
    async with open_stage() as stage:
        await stage.robin.command("who", member=stage.robin.id)
        answer = await stage.robin.wait_for(lambda m: m["content"] == "Robin Regulars False False")
        await stage.morgan.say("after")
        assert [m["content"] for m in await stage.morgan.messages()] == ["after"]
        assert answer["id"] not in stage.morgan.seen
        with pytest.raises(Refused) as refused:
            await stage.morgan.request("GET", f"/channels/{stage.morgan.channel_id}/messages/{answer['id']}")
        assert refused.value.code == 10008
        await stage.robin.delete(answer["id"])
        assert [m["content"] for m in await stage.robin.messages()] == ["after"]


async def test_checks_hold_on_both_surfaces() -> None:
    async with open_stage() as stage:
        await stage.robin.say("!train")
        await stage.robin.wait_for(lambda m: m["content"] == "You need Manage Server for that" and not m["flags"])
        await stage.robin.command("train")
        await stage.robin.wait_for(lambda m: m["content"] == "You need Manage Server for that" and m["flags"] == 64)
        await stage.morgan.command("train")
        await stage.morgan.wait_for(lambda m: m["content"] == "Training")


async def test_a_button_edits_its_message_and_another_answers_in_secret() -> None:
    async with open_stage() as stage:
        await stage.robin.say("!joke")
        joke = await stage.robin.wait_for(lambda m: m["content"].startswith("A long joke"))
        await stage.morgan.click(joke, "Another")
        assert (await stage.robin.wait_for(lambda m: m["content"] == "Another one"))["id"] == joke["id"]
        await stage.morgan.click(joke, "Secret")
        secret = await stage.morgan.wait_for(lambda m: m["content"] == "Only for you")
        assert secret["message_reference"]["message_id"] == joke["id"]
        assert secret["id"] not in stage.robin.seen


async def test_a_select_gives_the_bot_what_was_picked_and_nothing_else() -> None:
    async with open_stage() as stage:
        await stage.robin.say("!joke")
        joke = await stage.robin.wait_for(lambda m: m["content"].startswith("A long joke"))
        with pytest.raises(Refused) as refused:
            await stage.robin.choose(joke, "Limericks")
        assert refused.value.code == 50035
        await stage.robin.choose(joke, "Puns")
        await stage.robin.wait_for(lambda m: m["content"] == "You like Puns")


async def test_a_form_opens_is_checked_and_reaches_the_bot() -> None:
    async with open_stage() as stage:
        nonce = await stage.robin.command("addjoke")
        assert stage.robin.form(nonce)["title"] == "Add a joke"
        with pytest.raises(Refused) as refused:
            await stage.robin.submit_modal(nonce, {"Joke": "x" * 201, "Train on it?": ["Yes"]})
        assert refused.value.code == 50035
        with pytest.raises(Refused):
            await stage.robin.submit_modal(nonce, {"Joke": "", "Train on it?": ["Yes"]})
        await stage.robin.submit_modal(nonce, {"Joke": "knock knock", "Train on it?": ["Yes"]})
        await stage.robin.wait_for(lambda m: m["content"] == "Kept: knock knock (Yes)")
        with pytest.raises(Refused) as refused:
            await stage.robin.submit_modal(nonce, {"Joke": "again", "Train on it?": ["No"]})
        assert refused.value.code == 10062


async def test_autocomplete_offers_what_fits() -> None:
    async with open_stage() as stage:
        choices = await stage.robin.autocomplete("model", "name", name="gpt")
        assert [choice["value"] for choice in choices] == ["gpt2", "gpt2-xl"]
        await stage.robin.command("model", name="gpt2-xl")
        await stage.robin.wait_for(lambda m: m["content"] == "Now gpt2-xl")


async def test_an_interaction_nobody_acknowledges_fails_in_time() -> None:
    async with open_stage() as stage:
        stage.playground.expect_answers_within(0.1)
        with pytest.raises(DidNotRespond):
            await stage.robin.command("silent")


async def test_with_the_bot_away_commands_fail_at_once_and_the_page_sees_it_leave() -> None:
    async with open_stage() as stage:
        await stage.bot.close()
        await stage.robin.wait_for_event("PRESENCE_UPDATE", status="offline")
        with pytest.raises(DidNotRespond):
            await stage.robin.command("joke", timeout_s=1)


@pytest.mark.parametrize(
    ("name", "options"),
    [("model", {}), ("who", {"member": "1"}), ("who", {"member": "1300000000000000003", "shout": "yes"})],
)
async def test_wrong_options_are_refused_before_they_reach_the_bot(name: str, options: dict[str, Any]) -> None:
    async with open_stage() as stage:
        with pytest.raises(Refused) as refused:
            await stage.robin.command(name, **options)
        assert refused.value.code == 50035


async def test_a_dead_token_answers_nothing() -> None:
    async with open_stage() as stage:
        application_id = stage.playground.application_id
        for method, path in (
            ("POST", f"/webhooks/{application_id}/guess"),
            ("PATCH", f"/webhooks/{application_id}/guess/messages/@original"),
        ):
            with pytest.raises(Refused) as refused:
                await stage.robin.request(method, path, json={"content": "hello"})
            assert refused.value.code == 10015
        with pytest.raises(Refused) as refused:
            await stage.robin.request("POST", "/interactions/5/guess/callback", json={"type": 4})
        assert refused.value.code == 10062


async def test_a_second_acknowledgement_is_refused() -> None:
    async with open_stage() as stage:
        await stage.robin.command("model", name="gpt2")
        [interaction] = stage.comedy.interactions
        path = f"/interactions/{interaction.id}/{interaction.token}/callback"
        with pytest.raises(Refused) as refused:
            await stage.robin.request("POST", path, json={"type": 4, "data": {"content": "again"}})
        assert (refused.value.status, refused.value.code) == (400, 40060)


async def test_a_token_ends_after_its_lifetime(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_stage() as stage:
        await stage.robin.command("model", name="gpt2")
        [interaction] = stage.comedy.interactions
        assert (await interaction.edit_original_response(content="Now gpt2-xl")).content == "Now gpt2-xl"
        monkeypatch.setattr("bot.playground.interactions.TOKEN_LIFETIME_S", 0.0)
        with pytest.raises(discord.HTTPException) as refused:
            await interaction.followup.send("too late")
        assert (refused.value.status, refused.value.code) == (401, 50027)
