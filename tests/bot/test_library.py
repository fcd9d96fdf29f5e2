"""The joke collection, on real discord.py against the playground, with a real database."""

from bot.store import CONSENT_TEXT, CONSENT_VERSION
from bot.store.jokes import starter_texts
from tests.bot.test_commands import ask, words
from tests.support.stage import Stage

JOKE = "Why did the chicken cross the road? To get to the other side."


async def add_by_form(stage: Stage, text: str, choice: str) -> str:
    """Add a joke through the form of /addjoke; returns the bot's answer."""
    before = set(stage.robin.seen)
    nonce = await stage.robin.command("addjoke")
    await stage.robin.submit_modal(nonce, {"joke": text, "consent": [choice]})
    answer = await stage.robin.wait_for(lambda m: m["author"].get("bot") and m["id"] not in before)
    assert answer["flags"] & 64  # only its author sees it
    return words(answer)


async def test_the_form_shows_the_consent_sentence_and_offers_both_answers(stage: Stage) -> None:
    nonce = await stage.robin.command("addjoke", text="My draft")
    components = stage.robin.form(nonce)["components"]
    assert any(component.get("content") == CONSENT_TEXT for component in components)
    [text] = [c["component"] for c in components if c.get("component", {}).get("custom_id") == "joke"]
    assert text["value"] == "My draft"
    [choice] = [c["component"] for c in components if c.get("component", {}).get("custom_id") == "consent"]
    assert [option["value"] for option in choice["options"]] == ["yes", "no"]
    assert not any(option["default"] for option in choice["options"])


async def test_consent_in_the_form_makes_a_joke_trainable_and_its_version_is_kept(stage: Stage) -> None:
    assert "I may learn from it" in await add_by_form(stage, JOKE, "yes")
    [joke] = await stage.store.jokes.trainable(stage.guild_id)
    assert (joke.text, joke.provenance, joke.consent_version) == (JOKE, "modal", CONSENT_VERSION)
    assert joke.author_id == int(stage.playground.session.user_id)


async def test_without_consent_a_joke_is_kept_for_telling_only(stage: Stage) -> None:
    assert "telling only, as you chose" in await add_by_form(stage, JOKE, "no")
    assert await stage.store.jokes.trainable(stage.guild_id) == []
    assert (await stage.store.jokes.count(stage.guild_id)).total == 1


async def test_a_typed_joke_is_never_trainable_even_after_consent(stage: Stage) -> None:
    await add_by_form(stage, JOKE, "yes")
    answer = words(await ask(stage.robin, "!addjoke What is brown and sticky? A stick."))
    assert "Saved as #2" in answer
    assert "Discord does not let me train on messages" in answer
    assert [joke.id for joke in await stage.store.jokes.trainable(stage.guild_id)] == [1]


async def test_the_same_joke_twice_is_kept_once(stage: Stage) -> None:
    await ask(stage.robin, f"!addjoke {JOKE}")
    assert "has that joke already: it is #1" in words(await ask(stage.morgan, f"!jokes add {JOKE.upper()}"))
    assert (await stage.store.jokes.count(stage.guild_id)).total == 1


async def test_what_cannot_be_kept_is_a_sentence(stage: Stage) -> None:
    assert "I need the joke too" in words(await ask(stage.robin, "!addjoke"))
    assert "at least 3 characters" in words(await ask(stage.robin, "!addjoke x"))
    assert "the most is 1,000" in words(await ask(stage.robin, "!addjoke " + "ha " * 400))


async def test_an_empty_collection_offers_the_starter_pack_to_moderators(stage: Stage) -> None:
    assert "has no jokes yet" in words(await ask(stage.robin, "!jokes"))
    await stage.morgan.say("!jokes")
    offer = await stage.morgan.wait_for(lambda m: m["components"])
    await stage.robin.click(offer, "Import starter pack")
    await stage.robin.wait_for(lambda m: "Only moderators" in m["content"])
    await stage.morgan.click(offer, "Import starter pack")
    count = len(starter_texts())
    done = await stage.morgan.wait_for(lambda m: f"Imported **{count} jokes**" in m["content"])
    assert done["components"] == []
    assert (await stage.store.jokes.count(stage.guild_id)).trainable == count


async def test_import_is_for_moderators_and_twice_is_once(stage: Stage) -> None:
    assert "Only moderators" in words(await ask(stage.robin, "!jokes import"))
    assert "Imported" in words(await ask(stage.morgan, "!jokes import"))
    assert "was here already" in words(await ask(stage.morgan, "!jokes import"))


async def test_jokes_shows_counts_and_the_last_few(stage: Stage) -> None:
    await stage.store.jokes.import_starter(stage.guild_id)
    await ask(stage.robin, f"!addjoke {JOKE} @everyone")
    shown = words(await ask(stage.robin, "!jokes"))
    total = len(starter_texts()) + 1
    assert f"**{total} jokes** here, {total - 1} of them I may learn from" in shown
    assert f"**#{total}** Why did the chicken" in shown
    assert "@everyone" not in shown
    await stage.robin.command("jokes list")
    await stage.robin.wait_for(lambda m: f"**{total} jokes** here" in m["content"])


async def test_search_finds_every_word_and_says_when_nothing_is_found(stage: Stage) -> None:
    await ask(stage.robin, f"!addjoke {JOKE}")
    await ask(stage.robin, "!addjoke What is brown and sticky? A stick.")
    shown = words(await ask(stage.robin, "!jokes search ROAD chicken"))
    assert "#1" in shown
    assert "#2" not in shown
    assert "None of this server's jokes" in words(await ask(stage.robin, "!jokes search walrus"))


async def test_random_tells_a_collected_joke(stage: Stage) -> None:
    assert "no jokes here yet" in words(await ask(stage.robin, "!jokes random"))
    await ask(stage.robin, f"!addjoke {JOKE}")
    assert JOKE in words(await ask(stage.robin, "!jokes random"))


async def test_people_remove_their_own_jokes_and_moderators_any(stage: Stage) -> None:
    await ask(stage.morgan, f"!addjoke {JOKE}")
    await ask(stage.robin, "!addjoke What is brown and sticky? A stick.")
    assert "added yourself" in words(await ask(stage.robin, "!jokes remove 1"))
    assert "Removed joke #2" in words(await ask(stage.robin, "!jokes remove #2"))
    assert "Removed joke #1" in words(await ask(stage.morgan, "!jokes remove 1"))
    assert "There is no joke #1 here" in words(await ask(stage.morgan, "!jokes remove 1"))
    assert "I need the joke's number" in words(await ask(stage.morgan, "!jokes remove chicken"))


async def test_withdrawing_consent_takes_jokes_out_of_training(stage: Stage) -> None:
    assert "nothing to take back" in words(await ask(stage.robin, "!privacy withdraw"))
    await add_by_form(stage, JOKE, "yes")
    assert CONSENT_TEXT in words(await ask(stage.robin, "!privacy"))
    assert "1 joke of yours is out" in words(await ask(stage.robin, "!privacy withdraw"))
    assert await stage.store.jokes.trainable(stage.guild_id) == []


async def test_delete_erases_a_person_after_their_own_confirmation(stage: Stage) -> None:
    await ask(stage.robin, f"!addjoke {JOKE}")
    await stage.robin.say("!privacy delete")
    question = await stage.robin.wait_for(lambda m: m["components"])
    await stage.morgan.click(question, "Erase my jokes")
    await stage.morgan.wait_for(lambda m: "Only the person who asked" in m["content"])
    assert (await stage.store.jokes.count(stage.guild_id)).total == 1
    await stage.robin.click(question, "Erase my jokes")
    await stage.robin.wait_for(lambda m: "I erased 1 joke" in m["content"])
    assert (await stage.store.jokes.count(stage.guild_id)).total == 0
