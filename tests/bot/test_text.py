import codecs

import pytest

from bot.ui.text import GAP, LINK, MASK, MESSAGE_LIMIT, bold, inline, sanitise, split


@pytest.mark.parametrize("ping", ["@everyone", "@here", "<@1234>", "<@!1234>", "<@&1234>"])
def test_nothing_pings(ping: str) -> None:
    assert ping not in sanitise(f"hello {ping}!")
    assert sanitise(ping).replace(GAP, "") == ping  # it still reads the same


@pytest.mark.parametrize("tag", ["<#12>", "</joke:12>", "<:party:12>", "<a:party:12>", "<t:0:R>", "<id:customize>"])
def test_nothing_becomes_a_live_tag(tag: str) -> None:
    assert tag not in sanitise(tag)


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/x?y",
        "HTTP://EVIL.EXAMPLE",
        "www.evil.example",
        "discord.gg/abc",
        "discord . gg/abc",
        "discordapp.com/invite/abc",
        "steam://run/1",
        "[free gifts](https://evil.example)",
        "[free gifts](<https://evil.example>)",
        "<https://evil.example>",
        f"h{GAP}ttps://evil.example",
    ],
)
def test_links_and_invites_are_taken_out(link: str) -> None:
    shown = sanitise(f"look: {link} now")
    assert LINK in shown
    assert "evil" not in shown
    assert "abc" not in shown


@pytest.mark.parametrize("start", ["# ", "## ", "### ", "-# ", "> ", ">>> ", "  # "])
def test_no_line_looks_like_a_heading_or_a_quotation(start: str) -> None:
    for line in sanitise(f"{start}Moderator\nthen\n{start}Moderator").split("\n"):
        assert not line.startswith(start)


def test_an_open_code_block_span_or_spoiler_swallows_nothing() -> None:
    assert "```" not in sanitise("```py\nx = 1")
    assert sanitise("a `b") == "a 'b"
    assert sanitise("a `b` c") == "a `b` c"
    assert sanitise("the ||butler") == "the |butler"
    assert sanitise("the ||butler||") == "the ||butler||"


def test_what_cannot_be_seen_is_dropped() -> None:
    assert sanitise("a\u202eb\u200bc\u00add\x07e\ufefff\U000e0041g") == "abcdefg"
    assert sanitise("tab\tand\nline") == "tab\tand\nline"
    assert sanitise("family: 👩‍👩‍👧, heart: ❤️‍🔥") == "family: 👩‍👩‍👧, heart: ❤️‍🔥"
    assert len(sanitise("Z" + "\u0335" * 50)) == 4
    assert sanitise("\ud800").isprintable()


def test_slurs_are_masked_and_words_that_contain_their_letters_are_not() -> None:
    slur = codecs.decode("snttbg", "rot13")
    assert sanitise(f"you {slur}s!") == f"you {MASK}!"
    assert sanitise(f"you {slur.upper().replace('O', '0')}!") == f"you {MASK}!"
    for innocent in ("spice", "bookkeeper", "chinking glasses", "Scunthorpe", "raccoon", "tycoon"):
        assert sanitise(innocent) == innocent


@pytest.mark.parametrize(
    "text", ["@everyone # x", "# @here\n> <@1>", "a ``b`` `c", "||x|| ||y", "www.x.y\n\n\n\nz", ""]
)
def test_twice_is_once(text: str) -> None:
    assert sanitise(sanitise(text)) == sanitise(text)


def test_a_long_text_is_cut_at_words_into_messages_that_fit() -> None:
    words = [f"word{n}" for n in range(1500)]
    parts = split(" ".join(words))
    assert len(parts) > 3
    assert all(0 < len(part) <= MESSAGE_LIMIT for part in parts)
    assert " ".join(parts).split() == words
    assert [len(part) for part in split("x" * 4500)] == [2000, 2000, 500]
    assert split("") == []


def test_parts_stay_as_they_were_while_the_text_grows() -> None:
    text = " ".join(f"word{n}" for n in range(1500))
    for end in range(2500, len(text), 997):
        assert split(text[:end])[:-1] == split(text)[: len(split(text[:end])) - 1]


def test_a_line_for_a_list_is_one_line_and_shows_its_formatting_signs() -> None:
    assert inline("a\n**b**  _c_") == r"a \*\*b\*\* \_c\_"
    assert len(inline("x" * 500, 50)) == 50
    assert inline("x" * 500, 50).endswith("…")


def test_bold_survives_stars_and_empty_lines() -> None:
    assert bold("a *star*\n\nb") == "**a \\*star\\***\n\n**b**"
