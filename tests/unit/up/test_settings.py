"""Where settings come from, and what a user is told about those that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint.retention import Retention
from sessionkeeper.errors import UsageError
from sessionkeeper.leases import Leases
from sessionkeeper.retention import FOREVER, parse_retention, spelled
from sessionkeeper.settings import (
    AgentSettings,
    GatewaySettings,
    UpSettings,
    default_state,
    load,
)
from sessionkeeper.values import parse_duration, parse_size


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sessionkeeper.toml"
    path.write_text('[up]\nnodes = 5\nport = 7000\nlease_seconds = "7s"\n[gateway]\nport = 7001\n')
    return path


def test_flags_beat_the_environment_which_beats_the_file_which_beats_defaults(config: Path) -> None:
    environ = {"SESSIONKEEPER_PORT": "8000", "SESSIONKEEPER_NODES": "4"}
    found = load(UpSettings, {"nodes": "3", "port": None}, config=config, environ=environ)
    assert found.nodes == 3
    assert found.port == 8000
    assert found.lease_seconds == Leases(7.0)
    assert found.on_rollback == "replay"


def test_state_is_system_wide_for_root_and_xdg_for_others() -> None:
    assert default_state({}, uid=0) == Path("/var/lib/sessionkeeper")
    assert default_state({"HOME": "/home/ada"}, uid=7) == Path(
        "/home/ada/.local/state/sessionkeeper"
    )
    assert default_state({"XDG_STATE_HOME": "/x"}, uid=7) == Path("/x/sessionkeeper")


def test_store_is_in_the_state_directory_unless_given(tmp_path: Path) -> None:
    assert load(UpSettings, {"state": str(tmp_path)}, environ={}).store == str(tmp_path / "store")
    assert load(UpSettings, {"store": "s3://b/p"}, environ={}).store == "s3://b/p"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"nodes": "0"}, ["--nodes", "'0'", "1 to 60"]),
        ({"nodes": "two"}, ["--nodes", "'two'"]),
        ({"port": "70000"}, ["--port", "65535"]),
        ({"runtime": "docker"}, ["--runtime", "auto, container, process"]),
        ({"lease_seconds": "-1"}, ["--lease-seconds", "5s"]),
        ({"lease_seconds": "0"}, ["--lease-seconds", "longer"]),
        ({"workspace": "/nowhere/at/all"}, ["--workspace", "not a directory"]),
        ({"memory": "lots"}, ["--memory", "2G"]),
    ],
)
def test_wrong_value_is_named_with_its_flag_and_what_would_do(
    flags: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        load(UpSettings, flags, environ={})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_wrong_value_names_the_source_it_came_from(config: Path) -> None:
    with pytest.raises(UsageError, match="SESSIONKEEPER_NODES"):
        load(UpSettings, {}, environ={"SESSIONKEEPER_NODES": "x"})
    config.write_text("[up]\nnodes = 'x'\n")
    with pytest.raises(UsageError, match=f"nodes in {config}"):
        load(UpSettings, {}, config=config, environ={})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[up]\nnodez = 1\n", "nodez"),
        ("[upp]\n", "upp"),
        ("up = 3\n", "table"),
        ("[up\n", "not TOML"),
    ],
)
def test_mistake_in_the_file_is_an_error_not_ignored(
    tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(content)
    with pytest.raises(UsageError, match=words):
        load(UpSettings, {}, config=path, environ={})


def test_missing_file_is_an_error() -> None:
    with pytest.raises(UsageError, match="--config"):
        load(UpSettings, {}, config=Path("/nowhere.toml"), environ={})


def test_secret_comes_from_a_file_or_the_environment_and_is_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("hush\n")
    flags = {
        "token_file": str(secret),
        "gateway_url": "http://g",
        "node": "n",
        "data": str(tmp_path),
    }
    settings = load(AgentSettings, flags, environ={"SESSIONKEEPER_TOKEN": "other"})
    assert settings.token == "hush"
    assert "hush" not in repr(settings)
    settings = load(
        AgentSettings, {**flags, "token_file": None}, environ={"SESSIONKEEPER_TOKEN": "e"}
    )
    assert settings.token == "e"
    secret.write_text("")
    with pytest.raises(UsageError, match="token"):
        load(AgentSettings, flags, environ={})


def test_missing_setting_is_asked_for_by_its_flag() -> None:
    with pytest.raises(UsageError, match="--agent-token-file"):
        load(GatewaySettings, {}, environ={"SESSIONKEEPER_TOKEN": "t"})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5.0), ("500ms", 0.5), ("1m", 60.0), ("5", 5.0), ("1.5h", 5400.0), (" 2 s ", 2.0)],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "5 parsecs", "1e3", "inf", "nan"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("1024", 1024), ("2G", 2 << 30), ("1.5kib", 1536), ("512MB", 512 << 20)]
)
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("typed", "policy"),
    [
        ("all=2h", Retention(all=7200)),
        ("daily=90d, all=10m", Retention(all=600, daily=90 * 86400)),
        ("all=0,hourly=0,daily=0", Retention(0, 0, 0)),
        ("forever", FOREVER),
    ],
)
def test_what_is_kept_survives_being_passed_on_to_the_gateway(
    typed: str, policy: Retention
) -> None:
    found = load(UpSettings, {"keep": typed}, environ={}).keep
    assert found == policy
    assert parse_retention(spelled(found)) == policy


@pytest.mark.parametrize("typed", ["", "1h", "weekly=1h", "all=long", "all=1h hourly=2h"])
def test_what_is_no_retention_is_refused_with_what_would_do(typed: str) -> None:
    with pytest.raises(UsageError, match=r"--keep: .*(forever|duration)"):
        load(UpSettings, {"keep": typed}, environ={})


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("notices", "amazon", "is not auto, none or some of aws, google"),
        ("only_when", "never", "is none of plugged-in, away, night"),
        ("metadata_url", "169.254.169.254", "is no URL as http://169.254.169.254"),
        ("metadata_url", "http://[::1", "is no URL"),
        ("grace", "0s", "must be longer than nothing"),
    ],
)
def test_what_an_agent_is_told_of_notices_is_refused_in_words(
    tmp_path: Path, flag: str, value: str, words: str
) -> None:
    flags = {"gateway_url": "http://x", "node": "a", "data": str(tmp_path), flag: value}
    with pytest.raises(UsageError, match=words):
        load(AgentSettings, flags, environ={"SESSIONKEEPER_TOKEN": "t"})


def test_notices_of_an_agent_are_those_of_its_machine_and_none_for_the_nodes_of_up(
    tmp_path: Path,
) -> None:
    flags = {"gateway_url": "http://x", "node": "a", "data": str(tmp_path)}
    secret = {"SESSIONKEEPER_TOKEN": "t"}
    assert load(AgentSettings, flags, environ=secret).notices == ("auto",)
    environ = {**secret, "SESSIONKEEPER_NOTICES": "aws, logind"}
    assert load(AgentSettings, flags, environ=environ).notices == ("aws", "logind")
    assert load(UpSettings, {"state": str(tmp_path)}, environ={}).notices == ("none",)
