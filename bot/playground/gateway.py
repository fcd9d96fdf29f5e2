"""The gateway, v10, over a WebSocket: hello, identify or resume, heartbeats, events, member lists.

    client                     playground
      │  ◄──────────── 10 hello │
      │  2 identify ──────────► │  ◄── READY, GUILD_CREATE (a bot), then events as they happen
      │  1 heartbeat ─────────► │  ◄── 11 ack
      │  6 resume ────────────► │  ◄── what was missed, RESUMED   (or 9: start again)

Events go out as plain JSON text, which every client accepts whether or not it offers compression.
"""

import asyncio
import json
import logging
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from bot.playground import sessions as intents
from bot.playground.payloads import (
    channel_payload,
    guild_create_payload,
    member_payload,
    user_payload,
)
from bot.playground.presence import Presence
from bot.playground.sessions import ALL_INTENTS, Session, Sessions
from bot.playground.world import User, World

log = logging.getLogger(__name__)

Json = dict[str, Any]

HEARTBEAT_INTERVAL_MS = 41_250
ACK_DELAY_S = 0.05  # discord.py notes when it sent a heartbeat only after it is sent: no answer comes faster from afar


class GatewayClosed(Exception):
    """The connection breaks the protocol; carries Discord's close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class ConnectionLost(Exception):
    """The connection ended; `code` if the client said goodbye with one."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class Gateway:
    """Accepts gateway connections and speaks the protocol with each."""

    def __init__(self, world: World, sessions: Sessions) -> None:
        self._world = world
        self._sessions = sessions
        self._sockets: dict[web.WebSocketResponse, User | None] = {}
        self._presence = Presence(world, sessions)
        self.message_content = True  # off: the application may not ask for message content (4014)

    async def connect(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection until either side ends it."""
        socket = web.WebSocketResponse(max_msg_size=1 << 20)
        await socket.prepare(request)
        self._sockets[socket] = None
        session: Session | None = None
        writer: asyncio.Task[None] | None = None
        goodbye: int | None = None
        try:
            await socket.send_json({"op": 10, "d": {"heartbeat_interval": HEARTBEAT_INTERVAL_MS}, "s": None, "t": None})
            session, seen = await self._log_in(socket, request)
            writer = asyncio.create_task(self._write(socket, session, seen), name="playground-gateway-writer")
            self._presence.announce(session.user)
            await self._read(socket, session)
        except GatewayClosed as closed:
            await socket.close(code=closed.code, message=closed.reason.encode())
        except ConnectionLost as lost:
            goodbye = lost.code
        except ConnectionError as error:
            log.debug("gateway connection broke: %s", error)
        finally:
            del self._sockets[socket]
            if writer is not None:
                writer.cancel()
                await asyncio.wait([writer])
            if session is not None:
                self._sessions.leave(session, for_good=goodbye in (1000, 1001))
                self._presence.announce(session.user)
        return socket

    async def close(self, code: int = WSCloseCode.GOING_AWAY) -> None:
        """End every connection."""
        for socket in list(self._sockets):
            await socket.close(code=code)

    async def drop(self, user: User, code: int = 4000) -> None:
        """Break this account's connections, as a bad network would; they may resume."""
        for socket, owner in list(self._sockets.items()):
            if owner is user:
                await socket.close(code=code)

    # logging in

    async def _log_in(self, socket: web.WebSocketResponse, request: web.Request) -> tuple[Session, int]:
        """Wait for identify or resume. Returns the session and the number of the last event the client has."""
        if request.query.get("v", "10") != "10" or request.query.get("encoding", "json") != "json":
            raise GatewayClosed(4012, "Invalid API version")
        while True:
            frame = await self._receive(socket)
            op, body = frame["op"], frame.get("d")
            if op == 1:
                await self._acknowledge(socket)
            elif op == 2 and isinstance(body, dict):
                session = self._identify(body)
                self._sockets[socket] = session.user
                return session, 0
            elif op == 6 and isinstance(body, dict):
                resumed = self._resume(body)
                if resumed is not None:
                    self._sockets[socket] = resumed.user
                    return resumed, int(body["seq"])
                await socket.send_json({"op": 9, "d": False, "s": None, "t": None})
            else:
                raise GatewayClosed(4003, "Not authenticated.")

    def _identify(self, body: Json) -> Session:
        user = self._user(body.get("token"))
        wanted = body.get("intents", 0)
        if user.bot:
            if not isinstance(wanted, int) or not 0 <= wanted <= ALL_INTENTS:
                raise GatewayClosed(4013, "Invalid intent(s).")
            if wanted & intents.MESSAGE_CONTENT and not self.message_content:
                raise GatewayClosed(4014, "Disallowed intent(s).")
        session = self._sessions.open(user, wanted if user.bot else ALL_INTENTS)
        self._presence.set(user, body.get("presence"))
        self._greet(session)
        return session

    def _resume(self, body: Json) -> Session | None:
        user = self._user(body.get("token"))
        session = self._sessions.find(str(body.get("session_id")))
        sequence = body.get("seq")
        if session is None or session.user is not user or not isinstance(sequence, int):
            return None
        if not session.can_resume(sequence):
            return None
        session.connected = True
        session.push("RESUMED", {"_trace": ["playground"]})
        return session

    def _user(self, token: object) -> User:
        user = self._world.user_by_token(token) if isinstance(token, str) else None
        if user is None:
            raise GatewayClosed(4004, "Authentication failed.")
        return user

    def _greet(self, session: Session) -> None:
        """READY; a bot then gets its guild as GUILD_CREATE, a person has it in READY, as Discord does it."""
        world, user = self._world, session.user
        guild = guild_create_payload(world, user, self._presence.members_for(session), self._presence.all_for(session))
        unavailable = {"id": str(world.guild.id), "unavailable": True}
        session.push(
            "READY",
            {
                "v": 10,
                "user": user_payload(user) | {"email": None, "verified": True, "mfa_enabled": False},
                "guilds": [unavailable if user.bot else guild],
                "session_id": session.id,
                "session_type": "normal",
                "resume_gateway_url": gateway_url(world),
                "application": {"id": str(world.bot.id), "flags": (1 << 13) | (1 << 15) | (1 << 19)},
                "users": [] if user.bot else [user_payload(other) for other in world.users],
                "private_channels": [
                    channel_payload(world, channel, user)
                    for channel in world.direct.values()
                    if user in channel.recipients and not user.bot
                ],
            },
        )
        if user.bot and session.intents & intents.GUILDS:
            session.push("GUILD_CREATE", guild)

    # talking

    async def _receive(self, socket: web.WebSocketResponse) -> Json:
        message = await socket.receive(timeout=HEARTBEAT_INTERVAL_MS / 1000 * 1.5)
        if message.type is not WSMsgType.TEXT:
            raise ConnectionLost(message.data if message.type is WSMsgType.CLOSE else None)
        try:
            frame = json.loads(message.data)
        except ValueError as error:
            raise GatewayClosed(4002, "Error while decoding payload.") from error
        if not isinstance(frame, dict) or not isinstance(frame.get("op"), int):
            raise GatewayClosed(4002, "Error while decoding payload.")
        return frame

    async def _acknowledge(self, socket: web.WebSocketResponse) -> None:
        await asyncio.sleep(ACK_DELAY_S)
        await socket.send_json({"op": 11, "d": None, "s": None, "t": None})

    async def _read(self, socket: web.WebSocketResponse, session: Session) -> None:
        while True:
            try:
                frame = await self._receive(socket)
            except TimeoutError as error:
                raise GatewayClosed(4009, "Session timed out.") from error
            body = frame.get("d")
            match frame["op"]:
                case 1:
                    await self._acknowledge(socket)
                case 2:
                    raise GatewayClosed(4005, "Already authenticated.")
                case 3 if isinstance(body, dict):
                    self._presence.set(session.user, body)
                    self._presence.announce(session.user)
                case 4:
                    pass  # voice: there is none here
                case 8 if isinstance(body, dict):
                    self._send_members(session, body)
                case _:
                    raise GatewayClosed(4001, "Unknown opcode.")

    async def _write(self, socket: web.WebSocketResponse, session: Session, seen: int) -> None:
        """Send every event after number `seen`, for as long as the connection lives."""
        while not socket.closed:
            session.wakeup.clear()
            for number, event in session.since(seen):
                try:
                    await socket.send_json(event)
                except ConnectionError:
                    return  # the reader sees it too, and ends the connection
                seen = number
            await session.wakeup.wait()

    def _send_members(self, session: Session, body: Json) -> None:
        """Op 8: members by id or by the start of their name; the whole list needs the members intent."""
        guild = self._world.guild
        wanted = body.get("user_ids")
        query = str(body.get("query") or "").lower()
        members = list(guild.members.values())
        not_found: list[str] = []
        if wanted is not None:
            ids = {str(user_id) for user_id in (wanted if isinstance(wanted, list) else [wanted])}
            members = [m for m in members if str(m.user.id) in ids]
            not_found = sorted(ids - {str(m.user.id) for m in members})
        elif query:
            members = [m for m in members if m.user.username.lower().startswith(query)]
        elif not session.intents & intents.GUILD_MEMBERS:
            members = [m for m in members if m.user is session.user]
        limit = body.get("limit") or len(members)
        payload: Json = {
            "guild_id": str(guild.id),
            "members": [member_payload(m) for m in members[:limit]],
            "chunk_index": 0,
            "chunk_count": 1,
            "not_found": not_found,
        }
        if body.get("presences"):
            payload["presences"] = self._presence.all_for(session)
        if body.get("nonce"):
            payload["nonce"] = body["nonce"]
        session.push("GUILD_MEMBERS_CHUNK", payload)


def gateway_url(world: World) -> str:
    """Where the gateway listens, as `GET /gateway/bot` and READY name it."""
    return world.base_url.replace("http://", "ws://", 1) + "/gateway/"
