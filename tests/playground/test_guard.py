"""Who may talk to the playground: this machine and our own page."""

import json
import random
from typing import Any

import aiohttp
import pytest

from bot.playground import Playground, PlaygroundError


async def fetch(playground: Playground, path: str, headers: dict[str, str]) -> tuple[int, dict[str, object]]:
    async with aiohttp.ClientSession() as http, http.get(playground.base_url + path, headers=headers) as response:
        text = await response.text()
        return response.status, json.loads(text) if text.startswith("{") else {}


async def test_the_session_names_the_people_and_where_they_are() -> None:
    async with Playground(port=0) as playground:
        status, session = await fetch(playground, "/playground/session", {})
        assert status == 200
        assert set(session) == {
            "guild_id",
            "channel_id",
            "user_id",
            "user_token",
            "moderator_id",
            "moderator_token",
        }
        status, user = await fetch(playground, "/api/v10/users/@me", {"Authorization": str(session["user_token"])})
        assert (status, user["id"]) == (200, session["user_id"])


@pytest.mark.parametrize("path", ["/playground/session", "/", "/api/v10/gateway", "/gateway/"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:8480"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
    ],
)
async def test_other_pages_get_nothing(path: str, headers: dict[str, str], status: int) -> None:
    async with Playground(port=0) as playground:
        got, body = await fetch(playground, path, headers)
        assert got == status
        assert "user_token" not in body


async def test_our_own_page_may_come_in_under_either_name() -> None:
    async with Playground(port=0) as playground:
        port = playground.base_url.rsplit(":", 1)[1]
        for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
            headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
            assert (await fetch(playground, "/playground/session", headers))[0] == 200


@pytest.mark.parametrize("token", [None, "wrong", "Bot wrong"])
async def test_without_a_known_token_the_api_is_closed(token: str | None) -> None:
    async with Playground(port=0) as playground:
        headers = {} if token is None else {"Authorization": token}
        status, body = await fetch(playground, "/api/v10/users/@me", headers)
        assert (status, body["message"]) == (401, "401: Unauthorized")


async def test_the_bots_token_is_no_persons_and_a_persons_no_bots() -> None:
    async with Playground(port=0) as playground:
        for token in (playground.bot_token, f"Bot {playground.session.user_token}"):
            assert (await fetch(playground, "/api/v10/users/@me", {"Authorization": token}))[0] == 401


async def test_a_taken_port_is_a_sentence() -> None:
    async with Playground(port=0) as playground:
        port = int(playground.base_url.rsplit(":", 1)[1])
        with pytest.raises(PlaygroundError, match=rf"^Port {port} is already in use"):
            await Playground(port=port).start()


async def test_ids_stay_and_tokens_change_between_runs() -> None:
    first, second = Playground(port=0), Playground(port=0)
    assert first.session.guild_id == second.session.guild_id
    assert first.application_id == second.application_id
    assert first.session.user_token != second.session.user_token
    assert first.bot_token != second.bot_token


async def test_what_is_not_there_is_404_in_discords_words() -> None:
    async with Playground(port=0) as playground:
        headers = {"Authorization": playground.session.user_token}
        status, body = await fetch(playground, "/api/v10/channels/5", headers)
        assert (status, body["code"]) == (404, 10003)
        status, body = await fetch(playground, "/api/v10/nowhere", headers)
        assert (status, body["message"]) == (404, "404: Not Found")
        for path in ("/page/..%2Fserver.py", "/page/nothing.js", "/avatars/5/robin.png", "/attachments/1/2/x"):
            assert (await fetch(playground, path, {}))[0] == 404


async def test_whatever_is_sent_is_never_the_playgrounds_own_failure() -> None:
    drawn = random.Random(7)
    async with Playground(port=0) as playground, aiohttp.ClientSession() as http:
        person, bot = playground.session.user_token, f"Bot {playground.bot_token}"
        command = {"name": "joke", "description": "d", "options": [{"type": 3, "name": "name", "description": "d"}]}
        for number in range(400):
            path, token = drawn.choice(
                [
                    (f"/channels/{playground.session.channel_id}/messages", drawn.choice([person, bot])),
                    (f"/channels/{playground.session.channel_id}/messages/bulk-delete", person),
                    ("/interactions", person),
                    ("/users/@me/channels", person),
                    (f"/applications/{playground.application_id}/commands", bot),
                ]
            )
            body = anything(drawn, 0) if number else command
            if path == "/interactions" and isinstance(body, dict):
                body |= {"channel_id": playground.session.channel_id, "type": drawn.choice([2, 3, 4, 5])}
            headers = {"Authorization": token}
            async with http.post(playground.api_url + path, headers=headers, json=body) as response:
                assert response.status < 500, (path, body)


def anything(drawn: random.Random, depth: int) -> Any:
    """A value of some JSON type, with the names Discord uses."""
    names = [
        "content",
        "embeds",
        "components",
        "attachments",
        "allowed_mentions",
        "message_reference",
        "flags",
        "type",
        "data",
        "id",
        "options",
    ]
    names += [
        "message_id",
        "custom_id",
        "values",
        "fields",
        "footer",
        "choices",
        "parse",
        "users",
        "recipient_id",
        "messages",
        "emoji",
        "name",
    ]
    kind = drawn.randrange(10 if depth < 4 else 5)
    if kind < 5:
        return drawn.choice([None, True, 0, -1, 10**30, 1.5, "", "joke", "5", "\ud800", "x" * 2001])
    if kind < 7:
        return [anything(drawn, depth + 1) for _ in range(drawn.randrange(4))]
    return {name: anything(drawn, depth + 1) for name in drawn.sample(names, drawn.randrange(1, 9))}
