"""The rules of settings: three sources, unknown names refused, one line per problem."""

import subprocess
import sys
from pathlib import Path

import pytest

from bot.config import Settings, _token_of
from bot.config import load_settings as load_bot_settings
from model_service.config import CommonSettings, ServiceProcessSettings, load
from model_service.settings_sources import SettingsError


def read(folder: Path, toml: str = "", env_file: str = "", **environ: str) -> Settings:
    """Load the bot's settings from a folder with these files and this environment."""
    if toml:
        (folder / "punchline.toml").write_text(toml)
    if env_file:
        (folder / ".env").write_text(env_file)
    return load(Settings, environ, folder, extra=_token_of)


def problems(folder: Path, toml: str = "", env_file: str = "", **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(folder, toml, env_file, **environ)
    return caught.value.lines


def test_nothing_set_gives_the_defaults(tmp_path: Path) -> None:
    settings = read(tmp_path)
    assert settings.bot.prefix == "!"
    assert settings.playground.port == 8480
    assert settings.service.models == ()
    assert settings.discord_token is None


def test_the_later_source_wins(tmp_path: Path) -> None:
    toml = '[bot]\nprefix = "a"\njoke_max_tokens = 1\ncomplete_max_tokens = 11\n'
    env_file = "PUNCHLINE_BOT__PREFIX=b\nPUNCHLINE_BOT__JOKE_MAX_TOKENS=2\n"
    bot = read(tmp_path, toml, env_file, PUNCHLINE_BOT__PREFIX="c").bot
    assert (bot.prefix, bot.joke_max_tokens, bot.complete_max_tokens) == ("c", 2, 11)


def test_an_empty_value_counts_as_unset(tmp_path: Path) -> None:
    toml = '[bot]\nprefix = ""\n[service]\nsocket = ""\n'
    settings = read(tmp_path, toml, "PUNCHLINE_BOT__TOP_P=\n", PUNCHLINE_BOT__TEMPERATURE="", DISCORD_TOKEN="")
    assert (settings.bot.prefix, settings.bot.top_p, settings.bot.temperature) == ("!", 0.95, 0.8)
    assert settings.service.socket is None
    assert settings.discord_token is None


def test_an_empty_variable_does_not_hide_a_lower_source(tmp_path: Path) -> None:
    assert read(tmp_path, '[bot]\nprefix = "?"\n', PUNCHLINE_BOT__PREFIX="").bot.prefix == "?"


def test_an_unknown_name_in_the_file_is_refused_with_the_nearest(tmp_path: Path) -> None:
    toml = "[bot]\nedit_intervall_s = 1\n[playgroud]\nport = 1\n"
    assert problems(tmp_path, toml) == [
        "bot.edit_intervall_s: there is no such setting; did you mean bot.edit_interval_s?",
        "playgroud: there is no such setting; did you mean playground?",
    ]


def test_an_unknown_name_in_a_model_is_refused(tmp_path: Path) -> None:
    toml = '[[service.models]]\nname = "a"\nsource = "b"\nweigths = "int8"\n'
    assert problems(tmp_path, toml) == [
        "service.models[0].weigths: there is no such setting; did you mean service.models[0].weights?"
    ]


def test_a_name_of_another_section_is_pointed_at(tmp_path: Path) -> None:
    assert problems(tmp_path, "port = 1\n") == [
        "port: there is no such setting; did you mean service.port?",
    ]


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_an_unknown_variable_is_refused_by_its_name(tmp_path: Path, place: str) -> None:
    name = "PUNCHLINE_BOT__EDIT_INTERVALL_S"
    found = problems(tmp_path, env_file=f"{name}=1\n") if place == ".env" else problems(tmp_path, **{name: "1"})
    assert found == [f"{name}: there is no such setting; did you mean PUNCHLINE_BOT__EDIT_INTERVAL_S?"]


def test_a_variable_without_a_section_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, PUNCHLINE_HOEM="x") == [
        "PUNCHLINE_HOEM: there is no such setting; did you mean PUNCHLINE_HOME?"
    ]
    assert problems(tmp_path, PUNCHLINE_BOT="{}", PUNCHLINE_ZEBRA="")[0].startswith("PUNCHLINE_BOT: there is no")


def test_other_programs_variables_are_ignored(tmp_path: Path) -> None:
    read(tmp_path, env_file="OTHER=1\nPUNCH=2\n", PATH="/bin", BOT__PREFIX="?", SERVICE="x")


def test_the_service_leaves_the_bots_names_to_the_bot(tmp_path: Path) -> None:
    (tmp_path / "punchline.toml").write_text('discord_token_file = "t"\n[bot]\nprefix = "?"\n[playground]\nport = 1\n')
    settings = load(ServiceProcessSettings, {"PUNCHLINE_BOT__PREFIX": "!", "DISCORD_TOKEN": "secret"}, tmp_path)
    assert "secret" not in repr(settings)
    with pytest.raises(SettingsError, match=r"PUNCHLINE_SERVICE__MAX_QUEU: .*PUNCHLINE_SERVICE__MAX_QUEUE"):
        load(ServiceProcessSettings, {"PUNCHLINE_SERVICE__MAX_QUEU": "1"}, tmp_path)


def test_relative_paths_start_at_the_file_they_stand_in(tmp_path: Path) -> None:
    there = tmp_path / "conf"
    (there / "weights").mkdir(parents=True)
    (there / "p.toml").write_text(
        'home = "state"\ndiscord_token_file = "token"\n[service]\nsocket = "s.sock"\n'
        '[[service.models]]\nname = "a"\nsource = "weights"\n'
        '[[service.models]]\nname = "b"\nsource = "./later"\n'
        '[[service.models]]\nname = "c"\nsource = "openai-community/gpt2"\n'
    )
    settings = read(tmp_path, PUNCHLINE_CONFIG="conf/p.toml")
    assert settings.home == there / "state"
    assert settings.socket_path == there / "s.sock"
    assert settings.discord_token_file == there / "token"
    sources = [model.source for model in settings.service.models]
    assert sources == [str(there / "weights"), str(there / "later"), "openai-community/gpt2"]


def test_relative_paths_of_the_environment_start_at_the_working_directory(tmp_path: Path) -> None:
    settings = read(tmp_path, PUNCHLINE_HOME="h")
    assert settings.home == tmp_path / "h"
    assert settings.socket_path == tmp_path / "h" / "model.sock"


def test_the_file_may_be_named_in_the_env_file(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('[bot]\nprefix = "?"\n')
    assert read(tmp_path, env_file="PUNCHLINE_CONFIG=other.toml\n").bot.prefix == "?"


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    assert problems(tmp_path, PUNCHLINE_CONFIG="no.toml") == [f"PUNCHLINE_CONFIG: there is no file {tmp_path}/no.toml"]


def test_broken_toml_says_where(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, "[bot\n")
    assert line.startswith(f"{tmp_path}/punchline.toml: ")
    assert "line 1" in line


def test_models_can_be_given_as_json(tmp_path: Path) -> None:
    settings = read(tmp_path, PUNCHLINE_SERVICE__MODELS='[{"name": "a", "source": "x/y", "task": "classify"}]')
    assert settings.service.models[0].task == "classify"
    assert problems(tmp_path, PUNCHLINE_SERVICE__MODELS="a") == ["service.models: must be a list written as JSON"]
    assert problems(tmp_path, PUNCHLINE_SERVICE__SHARES="a") == ["service.shares: must be a table written as JSON"]
    assert problems(tmp_path, PUNCHLINE_SERVICE__SHARES='{"7": 0}') == ["service.shares: must be above 0"]


SERVICE = "PUNCHLINE_SERVICE__"


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("[bot]\nedit_interval_s = 0", "bot.edit_interval_s: must be above 0"),
        ("[bot]\nedit_interval_s = inf", "bot.edit_interval_s: must be a finite number"),
        ('[bot]\nedit_interval_s = "fast"', "bot.edit_interval_s: must be a number"),
        ("[bot]\nedit_interval_s = nan", "bot.edit_interval_s: must be a finite number"),
        ("[bot]\ntop_p = 1.5", "bot.top_p: must be at most 1"),
        ("[bot]\njoke_max_tokens = 0", "bot.joke_max_tokens: must be at least 1"),
        ("[bot]\njoke_max_tokens = 1.5", "bot.joke_max_tokens: must be a whole number"),
        ('[bot]\nsync_commands = "often"', "bot.sync_commands: must be true or false"),
        ("[bot]\nprefix = 3", "bot.prefix: must be a text, in quotation marks"),
        ('[bot]\nprefix = "!!!!!!!!!!!"', "bot.prefix: must have at most 10 characters"),
        (
            "[bot]\ncomplete_max_tokens = 600",
            "bot.complete_max_tokens_limit: must be at least bot.complete_max_tokens, which is 600",
        ),
        ("bot = 3", "bot: must be a table"),
        ("[playground]\nport = 70000", "playground.port: must be at most 65535"),
        ('[[service.models]]\nname = "a"', "service.models[0].source: is missing"),
        ('[[service.models]]\nname = "a"\nsource = "b"\ntask = "sing"', "must be 'generate' or 'classify'"),
        ('[[service.models]]\nname = "a"\nsource = "b"\ndevices = 3', "devices: must be 'auto' or a list"),
        (
            '[[service.models]]\nname = "a"\nsource = "b"\ndevices = []',
            "devices: must be 'auto' or name at least one device",
        ),
        (
            '[service]\ndevice_memory = {"gpu0" = "1GiB"}',
            "service.device_memory: must name devices as cuda:0, cpu, or cpu:0 and cpu:1 for parts of the CPU's memory",
        ),
        (
            '[service]\ndevice_memory = {"cpu" = "plenty"}',
            "service.device_memory: must be an amount of memory, like 10GiB or 512MB",
        ),
        (
            '[training]\nreserve = "much"',
            "training.reserve: must be 'auto' or 'none' or an amount of memory, like 10GiB or 512MB",
        ),
        ("[service]\nmemory_margin = 1.0", "service.memory_margin: must be below 1"),
        ("[service]\nmodels = 3", "service.models: must be a list"),
        (
            '[[service.models]]\nname = "a"\nsource = "b"\n[[service.models]]\nname = "a"\nsource = "c"',
            "service.models: two models are named 'a'",
        ),
        ('[service]\nhost = "::1"\nport = 80', "service.api_key: is missing; over TCP everyone needs a key"),
        ('[service]\nhost = "::1"\napi_key = "k"', "service.port: is missing; service.host needs it"),
        ("[service]\nport = 80", "service.port: needs service.host beside it"),
        (
            '[service]\nsocket = "s"\nhost = "::1"\nport = 80\napi_key = "k"',
            "service.host: cannot stand beside service.socket; choose one of the two",
        ),
        ('discord_token = "abc.def"', "discord_token: belongs in .env or in DISCORD_TOKEN, not in "),
    ],
)
def test_a_bad_value_is_named_with_its_rule(tmp_path: Path, toml: str, expected: str) -> None:
    (line,) = problems(tmp_path, toml)
    assert expected in line
    assert "abc.def" not in line


def test_a_socket_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, PUNCHLINE_HOME="h" * 110)
    assert line.startswith("service.socket: the path has ")
    assert "107" in line


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    assert len(problems(tmp_path, "[bot]\ntop_p = 2\nx = 1\n", PUNCHLINE_TYPO="1")) == 3


TOKEN = "MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs"


def load_in(folder: Path, monkeypatch: pytest.MonkeyPatch, **environ: str) -> Settings:
    monkeypatch.chdir(folder)
    for name in ("DISCORD_TOKEN", "DISCORD_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return load_bot_settings()


def test_the_token_comes_from_a_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    for environ in ({"DISCORD_TOKEN": TOKEN}, {"DISCORD_TOKEN_FILE": "token"}):
        settings = load_in(tmp_path, monkeypatch, **environ)
        assert settings.discord_token is not None
        assert settings.discord_token.get_secret_value() == TOKEN
        assert TOKEN not in repr(settings)


def test_a_token_of_the_environment_beats_a_file_named_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "punchline.toml").write_text('discord_token_file = "missing"\n')
    (tmp_path / ".env").write_text("DISCORD_TOKEN_FILE=missing-too\n")
    settings = load_in(tmp_path, monkeypatch, DISCORD_TOKEN=TOKEN)
    assert settings.discord_token is not None


def test_a_token_file_of_the_environment_beats_a_token_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("DISCORD_TOKEN=other\n")
    (tmp_path / "token").write_text(TOKEN)
    settings = load_in(tmp_path, monkeypatch, DISCORD_TOKEN_FILE="token")
    assert settings.discord_token is not None
    assert settings.discord_token.get_secret_value() == TOKEN


@pytest.mark.parametrize(
    ("environ", "content", "expected"),
    [
        ({"DISCORD_TOKEN": "a", "DISCORD_TOKEN_FILE": "b"}, "", "set this or DISCORD_TOKEN_FILE, not both"),
        ({"DISCORD_TOKEN": f"{TOKEN} {TOKEN}"}, "", "does not hold a token"),
        ({"DISCORD_TOKEN": "tökén"}, "", "does not hold a token"),
        ({"DISCORD_TOKEN_FILE": "token"}, "\n", "is empty"),
        ({"DISCORD_TOKEN_FILE": "token"}, f"token is\n{TOKEN}", "does not hold a token"),
        ({"DISCORD_TOKEN_FILE": "none"}, "", "cannot be read: No such file or directory"),
    ],
)
def test_a_bad_token_is_refused_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], content: str, expected: str
) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(SettingsError) as caught:
        load_in(tmp_path, monkeypatch, **environ)
    assert expected in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert "tökén" not in str(caught.value)


def test_settings_made_by_hand_read_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUNCHLINE_BOT__PREFIX", "?")
    (tmp_path / ".env").write_text("PUNCHLINE_BOT__PREFIX=?\n")
    assert Settings(home=tmp_path).bot.prefix == "!"
    assert CommonSettings(home=tmp_path).home == tmp_path


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings(home=tmp_path).home = Path()  # type: ignore[misc]


@pytest.mark.parametrize(
    "argv", [("-m", "bot", "run"), ("-m", "bot", "bot"), ("-m", "bot", "serve"), ("-m", "model_service", "serve")]
)
def test_a_bad_setting_ends_every_process_with_its_line_and_2(tmp_path: Path, argv: tuple[str, ...]) -> None:
    environ = {"PUNCHLINE_SERVICE__MAX_QUEUE": "0", "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(
        [sys.executable, *argv], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (2, "service.max_queue: must be at least 1\n")


def test_a_home_that_cannot_be_made_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environ = {"PUNCHLINE_HOME": "file/home", "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(
        [sys.executable, "-m", "bot", "doctor"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (2, f"home: {tmp_path}/file/home cannot be made: Not a directory\n")
