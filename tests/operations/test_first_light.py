"""The whole way in one go: `punchline run`, a browser, a person who types, an answer that grows while it is made."""

import asyncio
import shutil

import pytest
from playwright.async_api import Page, async_playwright, expect

from tests.operations.builders import TINY_MODELS, short_folder
from tests.operations.test_run import started
from tests.playground.test_page import CHROMIUM_ARGUMENTS
from tests.support.tiny_models import save_tiny_classifier, save_tiny_generator

NEVER = 256 + 44  # an end-of-text token that no model of 257 tokens says

WATCH = """
() => {
  window.seen = [];
  const look = () => {
    const answer = [...document.querySelectorAll(".message[data-author=Punchline] .text")].at(-1);
    const text = answer ? answer.textContent : "";
    if (text.includes("Once upon") && text !== window.seen.at(-1)) window.seen.push(text);
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}
"""


@pytest.mark.browser
async def test_a_person_sees_the_answer_grow_in_at_least_two_edits() -> None:
    with short_folder() as folder:
        # 200 tokens of it take many times as long as the time between two edits, on a fast machine too
        save_tiny_generator(folder / "generator", n_layer=12, n_embd=512, n_positions=256, eos_token_id=NEVER)
        save_tiny_classifier(folder / "classifier")
        slow = TINY_MODELS.replace('"generator"\n', '"generator"\nweights = "float32"\n')
        (folder / "punchline.toml").write_text(slow)
        with started(folder, PUNCHLINE_BOT__EDIT_INTERVAL_S="0.1") as process:
            assert process.stdout is not None
            line = await asyncio.to_thread(process.stdout.readline)
            async with async_playwright() as playwright:
                path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
                browser = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
                page = await browser.new_page()
                await page.goto(line.split("is at ")[1].split()[0])
                lengths = await _complete(page)
                await browser.close()
            process.terminate()
            await asyncio.to_thread(process.communicate, timeout=30)
            assert process.returncode == 0
    assert len(lengths) >= 3, "the text arrives, and grows in at least two edits"
    assert lengths == sorted(lengths)


async def _complete(page: Page) -> list[int]:
    """Type `!complete` with 200 tokens; return how long each state of the answer's text was, in order."""
    await expect(page.locator("#message")).to_be_focused()
    await page.evaluate(WATCH)
    await page.keyboard.type("!complete --tokens 200 Once upon a time")
    await page.keyboard.press("Enter")
    answer = page.locator(".message[data-author=Punchline]").last
    await expect(answer.get_by_role("button", name="Stop")).to_be_visible(timeout=20_000)
    await expect(answer.get_by_role("button", name="Stop")).to_have_count(0, timeout=60_000)
    seen: list[str] = await page.evaluate("window.seen")
    return [len(text.replace("▌", "").replace("(edited)", "").rstrip()) for text in seen]
