"""People in the playground, for tests: they act as the page does, over HTTP and their own gateway connection.

    async with Playground(port=0) as playground, at_home(playground) as (robin, morgan):
        await robin.say("!joke")
        answer = await robin.wait_for(lambda message: message["author"]["bot"] and message["content"])

A person keeps every message they see, by id, in its newest form; `wait_for` looks at those first, so it does not
matter whether the answer came before the question was asked.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Self, cast

import aiohttp

from bot.playground import Playground

Json = dict[str, Any]
HEARTBEAT_S = 20.0


class Refused(Exception):
    """The playground said no; `status` and Discord's `code`."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body}")
        self.status, self.body = status, body
        self.code = body.get("code") if isinstance(body, dict) else None


class DidNotRespond(AssertionError):
    """The bot did not acknowledge an interaction: the page shows "The application did not respond"."""


class Person:
    """One identity of the playground, in one channel (`channel_id`, which may be changed)."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str, token: str, channel_id: str) -> None:
        self._http = http
        self._base_url = base_url
        self._token = token
        self._nonces = itertools.count(1)
        self._changed = asyncio.Condition()
        self._interactions: dict[str, Json] = {}  # by nonce: event name and payload of the outcome
        self._reader: asyncio.Task[None] | None = None
        self.channel_id = channel_id
        self.id = ""
        self.name = ""
        self.guild: Json = {}
        self.application_id = ""
        self.seen: dict[str, Json] = {}  # every message that can be seen, newest form, by id
        self.versions: dict[str, list[Json]] = {}  # every form a message went through
        self.deleted: set[str] = set()
        self.events: list[tuple[str, Json]] = []

    # talking HTTP

    async def request(self, method: str, path: str, **kwargs: Any) -> Any:
        """One REST call with this person's token; raises Refused."""
        headers = {"Authorization": self._token}
        url = f"{self._base_url}/api/v10{path}"
        async with self._http.request(method, url, headers=headers, **kwargs) as response:
            body = await response.json() if response.content_type == "application/json" else await response.read()
            if response.status >= 400:
                raise Refused(response.status, body)
            return body

    async def say(self, text: str, *, reply_to: str | None = None, files: dict[str, bytes] | None = None) -> str:
        """Write in the channel; returns the message's id."""
        body: Json = {"content": text, "nonce": str(next(self._nonces))}
        if reply_to is not None:
            body["message_reference"] = {"message_id": reply_to, "channel_id": self.channel_id}
        path = f"/channels/{self.channel_id}/messages"
        if not files:
            return str((await self.request("POST", path, json=body))["id"])
        form = aiohttp.FormData()
        form.add_field("payload_json", json.dumps(body), content_type="application/json")
        for index, (filename, content) in enumerate(files.items()):
            form.add_field(f"files[{index}]", content, filename=filename)
        return str((await self.request("POST", path, data=form))["id"])

    async def messages(self, limit: int = 50) -> list[Json]:
        """The channel's messages, newest first, with one's own ephemeral ones."""
        return list(await self.request("GET", f"/channels/{self.channel_id}/messages?limit={limit}"))

    async def delete(self, message_id: str) -> None:
        """Delete a message, or dismiss an ephemeral one."""
        await self.request("DELETE", f"/channels/{self.channel_id}/messages/{message_id}")

    async def react(self, message_id: str, emoji: str) -> None:
        """Add a reaction."""
        await self._reaction("PUT", message_id, emoji)

    async def unreact(self, message_id: str, emoji: str) -> None:
        """Take back one's own reaction."""
        await self._reaction("DELETE", message_id, emoji)

    async def _reaction(self, method: str, message_id: str, emoji: str) -> None:
        await self.request(method, f"/channels/{self.channel_id}/messages/{message_id}/reactions/{emoji}/@me")

    async def open_direct(self, user_id: str) -> str:
        """Open direct messages with somebody; returns the channel's id."""
        return str((await self.request("POST", "/users/@me/channels", json={"recipient_id": user_id}))["id"])

    # interactions

    async def commands(self) -> dict[str, Json]:
        """The commands this person may use, by name."""
        index = await self.request("GET", f"/guilds/{self.guild['id']}/application-command-index")
        return {command["name"]: command for command in index["application_commands"]}

    async def command(self, name: str, /, *, timeout_s: float = 10.0, **options: Any) -> str:
        """Use `/name` ("jokes search" for a subcommand) and wait until the bot acknowledged; returns the nonce.

        Raises DidNotRespond when it did not. Answers are messages: `wait_for` them. A form: `form(nonce)`.
        """
        content = await self._command_content(name, options)
        return await self._interact({"type": 2, "data": content}, timeout_s)

    async def autocomplete(self, name: str, focused: str, /, *, timeout_s: float = 10.0, **options: Any) -> list[Json]:
        """The choices the bot offers for the option being typed: `[{name, value}]`."""
        content = await self._command_content(name, options)
        for option in _innermost(content["options"]):
            if option["name"] == focused:
                option["focused"] = True
        nonce = await self._interact({"type": 4, "data": content}, timeout_s)
        return list(self._interactions[nonce]["choices"])

    async def _command_content(self, name: str, options: Json) -> Json:
        root, *rest = name.split()
        command = (await self.commands())[root]
        known, chain = command["options"], []
        for part in rest:
            inner = next(option for option in known if option["name"] == part)
            chain.append(inner)
            known = inner.get("options") or []
        types = {option["name"]: option["type"] for option in known}
        chosen: list[Json] = [{"name": key, "type": types.get(key, 3), "value": options[key]} for key in options]
        for inner in reversed(chain):
            chosen = [{"name": inner["name"], "type": inner["type"], "options": chosen}]
        return {"id": command["id"], "name": root, "type": 1, "version": command["version"], "options": chosen}

    async def click(self, message: Json, label: str, *, timeout_s: float = 10.0) -> str:
        """Press the button with this label (or emoji), and wait until the bot acknowledged; returns the nonce."""
        return await self._use(
            message, lambda c: label in (c.get("label"), (c.get("emoji") or {}).get("name")), timeout_s
        )

    async def choose(self, message: Json, *values: str, timeout_s: float = 10.0) -> str:
        """Pick values in the message's first select, and wait until the bot acknowledged; returns the nonce."""
        return await self._use(message, lambda c: c["type"] in (3, 5, 6, 7, 8), timeout_s, values=list(values))

    async def _use(self, message: Json, fits: Callable[[Json], bool], timeout_s: float, **more: Any) -> str:
        shown = _walk(self.seen.get(message["id"], message)["components"])
        component = next((c for c in shown if "custom_id" in c and fits(c)), None)
        assert component is not None, f"nothing like that on {message['components']}"
        content = {"component_type": component["type"], "custom_id": component["custom_id"], **more}
        body = {"type": 3, "message_id": message["id"], "message_flags": message["flags"], "data": content}
        return await self._interact(body, timeout_s)

    def form(self, nonce: str) -> Json:
        """The form (modal) the bot opened for the interaction with this nonce."""
        return self._interactions[f"form {nonce}"]

    async def submit_modal(self, nonce: str, values: dict[str, Any], *, timeout_s: float = 10.0) -> str:
        """Fill the form opened by interaction `nonce`, by label, and send it; returns the new nonce."""
        form = self.form(nonce)
        fields = []
        for label, field in _fields(form["components"]):
            given = next((values[key] for key in (label, field["custom_id"]) if key in values), None)
            shape = {"values": given} if isinstance(given, list) else {"value": given}
            if given is not None:
                fields.append({"type": field["type"], "custom_id": field["custom_id"], **shape})
        unknown = set(values) - {
            key for label, field in _fields(form["components"]) for key in (label, field["custom_id"])
        }
        assert not unknown, f"the form has no {unknown}"
        content = {"custom_id": form["custom_id"], "components": [{"type": 1, "components": fields}]}
        return await self._interact({"type": 5, "data": content}, timeout_s)

    async def _interact(self, body: Json, timeout_s: float) -> str:
        nonce = f"i{next(self._nonces)}"
        where = {"application_id": self.application_id, "guild_id": self.guild["id"], "channel_id": self.channel_id}
        await self.request("POST", "/interactions", json={**where, "nonce": nonce, **body})
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: nonce in self._interactions)
        if self._interactions[nonce].get("failed"):
            raise DidNotRespond("The application did not respond")
        return nonce

    # watching

    async def wait_for(self, predicate: Callable[[Json], object], timeout_s: float = 10.0) -> Json:
        """The newest message seen (here or in any channel) for which `predicate` holds, waiting for one if needed."""

        def found() -> Json | None:
            return next((m for m in sorted(self.seen.values(), key=_age, reverse=True) if predicate(m)), None)

        try:
            async with asyncio.timeout(timeout_s), self._changed:
                return cast("Json", await self._changed.wait_for(found))
        except TimeoutError:
            seen = "\n".join(f"  {m['author']['username']}: {m['content']!r}" for m in self.seen.values())
            raise AssertionError(f"no such message within {timeout_s} s; seen:\n{seen}") from None

    async def wait_for_event(self, name: str, timeout_s: float = 10.0, **fields: Any) -> Json:
        """The first gateway event of this name whose payload has these fields."""

        def found() -> Json | None:
            return next((d for n, d in self.events if n == name and fields.items() <= d.items()), None)

        async with asyncio.timeout(timeout_s), self._changed:
            return cast("Json", await self._changed.wait_for(found))

    async def __aenter__(self) -> Self:
        socket = await self._http.ws_connect(self._base_url.replace("http", "ws", 1) + "/gateway/?v=10&encoding=json")
        await socket.send_json({"op": 2, "d": {"token": self._token, "properties": {}}})
        self._reader = asyncio.create_task(self._read(socket), name=f"person {self._token[:6]}")
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: self.id)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._reader is not None
        self._reader.cancel()
        await asyncio.wait([self._reader])

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        beating = asyncio.create_task(_beat(socket), name=f"heart {self._token[:6]}")
        try:
            async for message in socket:
                frame = json.loads(message.data)
                async with self._changed:
                    if frame["op"] == 0:
                        self._take(frame["t"], frame["d"])
                    self._changed.notify_all()
        finally:
            beating.cancel()
            await socket.close()

    def _take(self, event: str, payload: Json) -> None:
        self.events.append((event, payload))
        nonce = payload.get("nonce") if isinstance(payload, dict) else None
        if event == "READY":
            self.id, self.name = payload["user"]["id"], payload["user"]["global_name"]
            self.guild, self.application_id = payload["guilds"][0], payload["application"]["id"]
        elif event in ("MESSAGE_CREATE", "MESSAGE_UPDATE"):
            self.seen[payload["id"]] = payload
            self.versions.setdefault(payload["id"], []).append(payload)
        elif event == "MESSAGE_DELETE":
            self.seen.pop(payload["id"], None)
            self.deleted.add(payload["id"])
        elif event in ("INTERACTION_MODAL_CREATE", "APPLICATION_COMMAND_AUTOCOMPLETE_RESPONSE"):
            self._interactions[f"{'form' if 'custom_id' in payload else 'choices'} {nonce}"] = payload
        elif event == "INTERACTION_SUCCESS":
            self._interactions[str(nonce)] = self._interactions.get(f"choices {nonce}", {})
        elif event == "INTERACTION_FAILURE":
            self._interactions[str(nonce)] = {"failed": True}


def is_growing(message: Json) -> bool:
    """Say whether an answer is still growing: it has a Stop button."""
    return any(part.get("label") == "Stop" for part in _walk(message["components"]))


async def _beat(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Say now and then that the person is there, as the page does; who is silent for a minute is disconnected."""
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        await socket.send_json({"op": 1, "d": None})


def _age(message: Json) -> int:
    return int(message["id"])


def _walk(components: list[Json]) -> list[Json]:
    found = []
    for component in components:
        found.append(component)
        found += _walk(component.get("components") or [])
        found += _walk([component[name] for name in ("accessory", "component") if component.get(name)])
    return found


def _fields(components: list[Json]) -> list[tuple[str, Json]]:
    """Each input of a form with its label."""
    fields = []
    for component in components:
        if component["type"] == 18:
            fields.append((component["label"], component["component"]))
        fields += [(inner.get("label") or "", inner) for inner in component.get("components") or []]
    return fields


def _innermost(options: list[Json]) -> list[Json]:
    while options and options[0]["type"] in (1, 2):
        options = options[0]["options"]
    return options


@contextlib.asynccontextmanager
async def at_home(playground: Playground) -> AsyncIterator[tuple[Person, Person]]:
    """The member and the moderator, connected: `async with at_home(playground) as (robin, morgan)`."""
    who = playground.session
    async with aiohttp.ClientSession() as http:
        robin = Person(http, playground.base_url, who.user_token, who.channel_id)
        morgan = Person(http, playground.base_url, who.moderator_token, who.channel_id)
        async with robin, morgan:
            yield robin, morgan
