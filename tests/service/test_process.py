"""The process: how it opens its socket, starts, refuses to start, and leaves."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from model_service.config import CommonSettings, ServiceSettings
from model_service.listening import CannotListen, tcp_socket, unix_socket
from model_service.server import listen, serve, tuned_models
from model_service.training import registry
from tests.service.talk import NEVER_END, events, refused
from tests.support.service_process import ServiceProcess, environment, get_status, model_table, running_service
from tests.support.tiny_models import save_tiny_generator

TUNED = "ft:tiny:42:ftjob-0123456789abcdef"


def save_tuned(home: Path) -> Path:
    """Write a finished tuned model, as a training job leaves it."""
    folder = save_tiny_generator(home / "models" / TUNED, seed=1)
    (folder / "manifest.json").write_text(json.dumps({"id": TUNED, "base": "tiny", "created_at": 1}))
    return folder


def prepare_home(home: Path) -> None:
    """A tuned model, and the socket of a service that was killed."""
    save_tuned(home)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(home / "model.sock"))


@pytest.fixture
def own_service(tiny_folder: Path, long_folder: Path) -> Iterator[ServiceProcess]:
    models = model_table("broken", "/nowhere/at/all") + model_table("tiny", tiny_folder)
    with running_service(models + model_table("long", long_folder), ready=False, prepare=prepare_home) as started:
        yield started


async def wait_until_loaded(client: aiohttp.ClientSession, model_id: str) -> None:
    """Wait until a model answers; while it loads it must say so."""
    async with asyncio.timeout(30):
        while True:
            async with client.post("/v1/completions", json={"model": model_id, "prompt": "a"}) as response:
                if response.status == 200:
                    return
                error = (await response.json())["error"]
                assert (response.status, error["code"]) == (503, "model_loading"), error
                assert int(response.headers["Retry-After"]) >= 1
            await asyncio.sleep(0.05)


async def test_one_life_of_a_service(own_service: ServiceProcess) -> None:
    """Live before ready; a broken model leaves the rest serving; tuned ones are found; SIGTERM ends it cleanly."""
    path = own_service.socket_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with own_service.client() as client:
        await wait_until_loaded(client, TUNED)  # the last to be loaded
        async with client.get("/health/ready") as response:
            assert response.status == 503
            missing = (await response.json())["missing"]
        reason = "/nowhere/at/all is neither a folder nor a hub id like openai-community/gpt2."
        assert missing == {"broken": reason}
        status, error = await refused(client, model="broken", prompt="a")
        assert (status, error["code"]) == (503, "model_failed")
        assert error["message"] == f"The model 'broken' could not be loaded: {reason}"

        await delete_the_tuned_model(client, own_service)
        second = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "model_service", "serve"],
            cwd=own_service.home,
            env=environment(),
            capture_output=True,
            timeout=30,
        )
        assert second.returncode != 0
        assert f"Another service already answers on {path}. Stop it" in second.stderr.decode()
        assert get_status(str(path), "/health/live") == 200

        await stop_with_streams_open(client, own_service)
    assert not path.exists()
    assert "Traceback" not in own_service.log


async def delete_the_tuned_model(client: aiohttp.ClientSession, service: ServiceProcess) -> None:
    """Delete it by its id, which holds colons; its files go too."""
    async with client.get(f"/v1/models/{TUNED}") as response:
        card = await response.json()
    assert (card["id"], card["owned_by"], card["state"]) == (TUNED, "community", "ready")
    async with client.delete(f"/v1/models/{TUNED}") as response:
        assert await response.json() == {"id": TUNED, "object": "model", "deleted": True}
    assert list((service.home / "models").iterdir()) == []
    status, _ = await refused(client, model=TUNED, prompt="a")
    assert status == 404


async def stop_with_streams_open(client: aiohttp.ClientSession, service: ServiceProcess) -> None:
    """A stream that ends soon is finished, one that does not is told why; half a request holds up nothing."""
    body = {"model": "long", "prompt": "a", "stream": True, **NEVER_END}
    async with (
        client.post("/v1/completions", json={**body, "max_tokens": 60}) as short,
        client.post("/v1/completions", json={**body, "max_tokens": 30_000}) as endless,
    ):
        short_lines, endless_lines = events(short), events(endless)
        await anext(short_lines)
        await anext(endless_lines)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as half:
            half.connect(str(service.socket_path))
            half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: service\r\nContent-Length: 9\r\n\r\n{")
            service.process.send_signal(signal.SIGTERM)
            assert [line async for line in short_lines][-1] == "[DONE]"
            last = [line async for line in endless_lines][-1]
            assert await asyncio.to_thread(service.process.wait, 10) == 0
    assert json.loads(last)["error"]["code"] == "engine_dead"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_over_tcp_everyone_needs_the_key_except_for_health() -> None:
    key, port = "a-key-of-the-test", free_port()
    settings = CommonSettings(service=ServiceSettings(host="127.0.0.1", port=port, api_key=key))  # type: ignore[arg-type]
    with listen(settings) as sock:
        assert sock.getsockname() == ("127.0.0.1", port)
    tcp = f'host = "127.0.0.1"\nport = {port}\napi_key = "{key}"'
    with running_service(model_table("none", "/nowhere/at/all"), tcp, ready=False, port=port) as started:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            for given in (None, "Bearer wrong", f"Bearer {key}x", key, f"Basic {key}", "Bearer \u00fc"):
                headers = {} if given is None else {"Authorization": given}
                async with client.get("/v1/models", headers=headers) as response:
                    assert response.status == 401
                    assert response.headers["WWW-Authenticate"] == "Bearer"
                    assert (await response.json())["error"]["code"] == "invalid_api_key"
            async with client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}) as response:
                assert response.status == 200
            async with client.get("/health/live") as response:
                assert response.status == 200
        assert key not in started.log


def test_a_socket_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match=r"is \d+ bytes long; Linux allows 107"), unix_socket(tmp_path / ("x" * 107)):
        pass


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.sock"
    path.write_text("precious")
    with pytest.raises(CannotListen, match="exists and is no socket"), unix_socket(path):
        pass
    assert path.read_text() == "precious"


def test_the_socket_of_a_successor_is_left_in_place(tmp_path: Path) -> None:
    path = tmp_path / "model.sock"
    with unix_socket(path):
        path.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as successor:
            path.touch()  # keeps the old inode number from being given out again
            path.rename(tmp_path / "other")
            successor.bind(str(path))
    assert path.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotListen, match="cannot be opened"), unix_socket(tmp_path / "file" / "model.sock"):
        pass


def test_binding_leaves_the_umask_as_it_was(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with unix_socket(tmp_path / "model.sock"):
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_taken_port_is_named() -> None:
    with tcp_socket("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(CannotListen, match=f"127.0.0.1:{port} cannot be listened on"),
            tcp_socket("127.0.0.1", port),
        ):
            pass


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(CannotListen, match="is not an address of this machine"), tcp_socket("300.1.1.1", 80):
        pass


async def test_a_service_that_cannot_listen_says_why_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.sock").write_text("precious")
    with pytest.raises(SystemExit, match="exists and is no socket"):
        await serve(CommonSettings(home=tmp_path))


def test_half_a_model_is_never_found(tmp_path: Path) -> None:
    folder = save_tuned(tmp_path)
    models = tmp_path / "models"
    (models / ".aside-half").mkdir()
    (models / "no manifest").mkdir()
    assert [(spec.name, spec.source) for spec in tuned_models(models)] == [(TUNED, str(folder))]
    (models / f"{registry.GONE}{folder.name}").mkdir()  # what a power cut left
    registry.remove(models, TUNED)
    registry.remove(models, TUNED)  # twice is harmless
    assert tuned_models(models) == ()
    assert sorted(path.name for path in models.iterdir()) == [".aside-half", "no manifest"]


def test_the_service_answers_before_torch_is_imported() -> None:
    """So that it is live within a second, and the thread policy is set before torch reads it."""
    check = "import sys, model_service.server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], env=environment(), timeout=60).returncode == 0
