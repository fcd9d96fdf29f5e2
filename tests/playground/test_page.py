"""The chat page in a real browser, against a real bot."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, async_playwright, expect

from tests.playground.stage import Stage, open_stage

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "The page is tested in Chromium: install the package 'chromium'."
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield browser
        await browser.close()


@contextlib.asynccontextmanager
async def open_page(browser: Browser) -> AsyncIterator[tuple[Page, Stage]]:
    """The page on a fresh stage; afterwards it must have had no errors and asked nobody else for anything."""
    problems: list[str] = []
    async with open_stage() as stage:
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: None if _ours(request.url, stage) else problems.append(request.url))
        page.on("console", lambda said: problems.append(said.text) if "Content Security" in said.text else None)
        await page.goto(stage.playground.base_url)
        await expect(page.locator("#message")).to_be_focused()
        yield page, stage
        await page.close()
    assert problems == []


def _ours(url: str, stage: Stage) -> bool:
    return url.startswith((stage.playground.base_url, "data:"))


async def test_it_shows_the_guild_and_a_joke_that_is_asked_for(browser: Browser) -> None:
    async with open_page(browser) as (page, _):
        await expect(page.locator("#channels .row .label")).to_have_text(
            ["general", "jokes", "bot-testing", "announcements"]
        )
        await expect(page.locator("#members .person .label")).to_have_text(["Morgan", "Robin", "Punchline"])
        await page.keyboard.type("!joke dogs")
        await page.keyboard.press("Enter")
        answer = page.locator(".message[data-author=Punchline]")
        await expect(answer.locator(".text")).to_contain_text("A long joke about dogs(edited)")
        await expect(answer.locator(".badge").first).to_have_text("BOT")
        await expect(page.locator("#message")).to_have_value("")


async def test_a_slash_command_is_picked_and_filled_in_with_the_keyboard_alone(browser: Browser) -> None:
    async with open_page(browser) as (page, _):
        await page.keyboard.type("/")
        await expect(page.get_by_role("option")).to_have_count(7)
        await page.keyboard.type("jok")
        await expect(page.get_by_role("option").first).to_contain_text("Tell a joke.")
        await page.keyboard.press("Enter")
        await page.keyboard.type("owls")
        await page.keyboard.press("Enter")
        answer = page.locator(".message[data-author=Punchline]")
        await expect(answer).to_contain_text("A long joke about owls")
        await expect(answer.locator(".above")).to_have_text("Robin used /joke")


async def test_options_are_completed_by_the_bot_and_chosen_with_the_arrows(browser: Browser) -> None:
    async with open_page(browser) as (page, _):
        await page.keyboard.type("/model ")
        await expect(page.locator(".chip")).to_have_text(["name"])
        await page.keyboard.type("gpt")
        await expect(page.get_by_role("option")).to_have_text(["gpt2", "gpt2-xl"])
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Enter")
        await expect(page.locator(".message[data-author=Punchline]")).to_contain_text("Now gpt2-xl")


async def test_what_people_write_is_text_and_markdown_never_html(browser: Browser) -> None:
    async with open_page(browser) as (page, stage):
        hostile = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) **bold** ||hidden|| `a*b*`"
        await stage.morgan.say(f"{hostile} <@{stage.robin.id}>")
        text = page.locator(".message .text").last
        await expect(text).to_contain_text("<img src=x onerror=alert(1)> [x](javascript:alert(1))")
        await expect(text.locator("img, script, a")).to_have_count(0)
        await expect(text.locator("strong")).to_have_text("bold")
        await expect(text.locator("code")).to_have_text("a*b*")
        await expect(text.locator(".mention.me")).to_have_text("@Robin")
        await expect(text.get_by_text("hidden")).to_be_hidden()
        await text.locator(".spoiler").click()
        await expect(text.get_by_text("hidden")).to_be_visible()


async def test_times_are_in_discords_styles_and_a_quoted_message_is_one_plain_line(browser: Browser) -> None:
    async with open_page(browser) as (page, stage):
        said = await stage.morgan.say("**Bold** <t:129600:d>\n> and `code` ||hidden||")
        await expect(page.locator(".message .text").last).to_contain_text("Bold 1/2/70")
        await stage.robin.say("Indeed.", reply_to=said)
        await expect(page.locator(".message .above .quoted").last).to_have_text("Bold 1/2/70 > and `code` ||hidden||")


async def test_a_button_edits_and_a_secret_answer_is_for_one_until_dismissed(browser: Browser) -> None:
    async with open_page(browser) as (page, stage):
        await stage.robin.say("!joke")
        await page.get_by_role("button", name="Another").click()
        joke = page.locator(".message", has_text="Another one").last
        await expect(joke).to_be_visible()
        await joke.get_by_role("button", name="Secret").click()
        secret = page.locator(".message.ephemeral")
        await expect(secret).to_contain_text("Only you can see this")
        await page.locator("#switch").click()
        await expect(page.locator("#me strong")).to_have_text("Morgan")
        await expect(joke).to_be_visible()
        await expect(secret).to_have_count(0)
        await page.locator("#switch").click()
        await secret.get_by_text("Dismiss message").click()
        await expect(secret).to_have_count(0)
        assert all(message["flags"] & 64 == 0 for message in await stage.robin.messages())


async def test_a_form_says_what_is_missing_and_sends_what_is_entered(browser: Browser) -> None:
    async with open_page(browser) as (page, _):
        await page.keyboard.type("/addjoke")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Enter")
        form = page.get_by_role("dialog", name="Add a joke")
        await form.get_by_label("Joke *").fill("knock knock")
        await form.get_by_role("button", name="Submit").click()
        await expect(form.get_by_role("alert")).to_have_text("Choose Train on it?.")
        await form.get_by_role("combobox").select_option("Yes")
        await form.get_by_role("button", name="Submit").click()
        await expect(page.locator(".message[data-author=Punchline]")).to_contain_text("Kept: knock knock (Yes)")
        await expect(form).to_have_count(0)
        await page.keyboard.type("typing goes on")
        await expect(page.locator("#message")).to_have_value("typing goes on")


async def test_a_command_typed_at_once_is_found_though_the_list_of_commands_came_slowly(browser: Browser) -> None:
    async def late(route: Route) -> None:
        await asyncio.sleep(0.5)
        await route.continue_()

    async with open_page(browser) as (page, _):
        await page.route("**/application-command-index", late)
        await page.reload()
        await expect(page.locator("#message")).to_be_focused()
        await page.keyboard.type("/addjoke")
        await page.keyboard.press("Enter")
        await expect(page.locator(".command-name")).to_have_text("/addjoke")


async def test_pictures_embeds_and_reactions_are_shown(browser: Browser) -> None:
    async with open_page(browser) as (page, stage):
        await stage.robin.say("!paint")
        embed = page.locator(".embed")
        await expect(embed).to_contain_text("Chart")
        picture = embed.locator("img.picture")
        await expect(picture).to_have_attribute("alt", "Twelve")
        await page.wait_for_function("image => image.naturalWidth === 2", arg=await picture.element_handle())
        drawn = await stage.robin.wait_for(lambda m: m["embeds"])
        await stage.morgan.react(drawn["id"], "😂")
        reaction = page.get_by_role("button", name="😂")
        await expect(reaction).to_have_text("😂1")
        await reaction.click()
        await expect(reaction).to_have_text("😂2")
        await expect(reaction).to_have_attribute("aria-pressed", "true")


async def test_files_are_attached_and_replies_point_at_their_message(browser: Browser) -> None:
    async with open_page(browser) as (page, stage):
        sent = await stage.morgan.say("Any jokes?")
        row = page.locator(f"[data-id='{sent}']")
        await row.hover()
        await row.get_by_role("button", name="Reply").click()
        await expect(page.locator(".replying")).to_contain_text("Replying to Morgan")
        attached = {"name": "jokes.txt", "mimeType": "text/plain", "buffer": b"ha"}
        await page.get_by_label("Files to attach").set_input_files(attached)  # type: ignore[arg-type]
        await page.locator("#message").fill("many")
        await page.keyboard.press("Enter")
        reply = await stage.morgan.wait_for(lambda m: m["content"] == "many")
        assert reply["message_reference"]["message_id"] == sent
        assert [file["filename"] for file in reply["attachments"]] == ["jokes.txt"]
        await expect(page.locator(f"[data-id='{reply['id']}'] .above")).to_contain_text("Any jokes?")


async def test_an_edit_above_leaves_the_button_under_the_mouse_alone(browser: Browser) -> None:
    async with open_page(browser) as (page, stage):
        await stage.robin.say("!joke")
        joke = await stage.robin.wait_for(lambda m: m["content"].startswith("A long joke"))
        button = page.get_by_role("button", name="Secret")
        await expect(page.locator(".edited")).to_be_visible()
        await button.evaluate("button => { button.marked = true }")
        message = await stage.bot.get_channel(int(stage.robin.channel_id)).fetch_message(int(joke["id"]))  # type: ignore[union-attr]
        await message.edit(content="An even longer joke")
        await expect(page.get_by_text("An even longer joke")).to_be_visible()
        assert await button.evaluate("button => button.marked")


async def test_the_moderator_sees_more_and_the_page_keeps_its_place(browser: Browser) -> None:
    async with open_page(browser) as (page, _):
        await page.locator("#channels .row", has_text="jokes").click()
        await page.locator("#switch").click()
        await expect(page.locator("#me")).to_contain_text("MorganModerator")
        await expect(page.locator("#channels .row", has_text="moderators")).to_be_visible()
        await expect(page.locator("#topbar h1")).to_have_text("jokes")
        await page.reload()
        await expect(page.locator("#topbar h1")).to_have_text("jokes")
        await expect(page.locator("#me strong")).to_have_text("Morgan")


async def test_when_the_bot_is_away_the_page_says_so_and_commands_say_they_failed(browser: Browser) -> None:
    async with open_page(browser) as (page, stage):
        await expect(page.locator("#notice")).to_be_hidden()
        await stage.bot.close()
        await expect(page.locator("#notice")).to_contain_text("Punchline is not connected")
        await page.keyboard.type("/silent")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Enter")
        await expect(page.locator(".message .failed")).to_contain_text("The application did not respond")


async def test_a_broken_connection_is_said_and_mended(browser: Browser) -> None:
    async with open_page(browser) as (page, stage):
        await stage.playground.drop_people()
        await stage.morgan.say("still here")
        await expect(page.locator(".message", has_text="still here")).to_be_visible()
        await expect(page.locator("#notice")).to_be_hidden()
