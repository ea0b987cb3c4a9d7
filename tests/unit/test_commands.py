"""The command line as a whole: help, exit codes, settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from models.errors import ArtifactError
from streams.commands import COMMANDS, main
from streams.errors import KafkaUnavailable

HEAVY = ("confluent_kafka", "faust", "torch", "numba", "pyarrow", "numpy", "rich", "aiokafka")


@click.command()
@click.argument("kind")
def raises(kind: str) -> None:
    """Raise what the name says."""
    raise {
        "streams": KafkaUnavailable("no\nanswer"),
        "models": ArtifactError("no artifact"),
        "interrupt": KeyboardInterrupt(),
        "bug": RuntimeError("a bug"),
    }[kind]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """A runner of commands that knows one more, whose environment is that of a fresh shell."""
    monkeypatch.setitem(COMMANDS, "raises", (__name__, "Raise."))
    for name in [name for name in os.environ if name.startswith("STREAMS_")]:
        monkeypatch.delenv(name)
    # What the command line itself sets is put back after the test.
    for name in ("STREAMS_CONFIG", "STREAMS_BOOTSTRAP_SERVERS"):
        monkeypatch.setenv(name, "")
    return CliRunner()


def test_help_imports_nothing_heavy() -> None:
    """`streams --help` answers at once: it loads no Kafka client, no arrays, no torch."""
    code = (
        "import sys\nfrom streams.commands import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "demo" in done.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_table_says_what_the_command_says(name: str) -> None:
    """The summary in `streams --help` is the first sentence of the command's own help, which ends with examples."""
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    command = main.get_command(click.Context(main), name)
    assert command is not None and command.help is not None
    assert " ".join(command.help.partition("\n\n")[0].split()) == COMMANDS[name][1]
    assert f"streams {name}" in result.output.partition("Example")[2]


def _leaves(command: click.Command, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    found = []
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        found += _leaves(child, (*path, name))
    return found


@pytest.mark.parametrize("path", _leaves(main, ()), ids=" ".join)
def test_each_command_shows_an_example(path: tuple[str, ...]) -> None:
    """Every command explains each of its options and shows a call of itself."""
    result = CliRunner().invoke(main, [*path, "--help"], terminal_width=200)
    assert result.exit_code == 0
    assert "streams " + " ".join(path) in result.output.partition("Example")[2]
    command: click.Command | None = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    assert command is not None
    unexplained = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert not unexplained


@pytest.mark.parametrize(
    ("kind", "line"),
    [("streams", "streams: KafkaUnavailable: no answer\n"), ("models", "streams: ArtifactError: no artifact\n")],
)
def test_expected_error_is_one_line_and_exit_code_1(runner: CliRunner, kind: str, line: str) -> None:
    """What a user can act on is one line on stderr, without a traceback."""
    result = runner.invoke(main, ["raises", kind])
    assert (result.exit_code, result.stderr, result.stdout) == (1, line, "")


def test_interrupt_is_exit_code_130(runner: CliRunner) -> None:
    """A shell sees Ctrl-C as 130."""
    assert runner.invoke(main, ["raises", "interrupt"]).exit_code == 130


def test_wrong_usage_is_exit_code_2(runner: CliRunner) -> None:
    """A command or option that does not exist is a usage error."""
    assert runner.invoke(main, ["no-such-command"]).exit_code == 2
    assert runner.invoke(main, ["version", "--no-such-option"]).exit_code == 2


def test_bug_keeps_its_traceback(runner: CliRunner) -> None:
    """An unexpected error is not shown as a user's mistake."""
    assert isinstance(runner.invoke(main, ["raises", "bug"]).exception, RuntimeError)


def test_settings_masks_secrets_and_marks_changes(runner: CliRunner) -> None:
    """`streams settings` shows what is in use, but no password."""
    environment = {
        "STREAMS_SECURITY_PROTOCOL": "SASL_SSL",
        "STREAMS_SASL_USERNAME": "ann",
        "STREAMS_SASL_PASSWORD": "secret",
    }
    result = runner.invoke(main, ["settings"], env=environment)
    assert result.exit_code == 0
    assert "secret" not in result.output
    marked = {line.split()[1] for line in result.output.splitlines() if line.startswith("*")}
    assert marked == {"security_protocol", "sasl_username", "sasl_password"}
    as_json = json.loads(runner.invoke(main, ["settings", "--changed", "--json"], env=environment).output)
    assert as_json == {"security_protocol": "SASL_SSL", "sasl_username": "ann", "sasl_password": "***"}


def test_global_options_reach_the_settings(runner: CliRunner, tmp_path: Path) -> None:
    """--config and --bootstrap-servers work before any command, and an unknown key is refused by name."""
    file = tmp_path / "own.toml"
    file.write_text("top_k = 7\n")
    result = runner.invoke(
        main, ["--config", str(file), "--bootstrap-servers", "b:1", "settings", "--changed", "--json"]
    )
    assert json.loads(result.output) == {"top_k": 7, "bootstrap_servers": "b:1"}
    file.write_text("top_kk = 7\n")
    result = runner.invoke(main, ["--config", str(file), "settings"])
    assert result.exit_code == 1
    assert "top_kk" in result.stderr


def test_version_names_what_it_stands_on(runner: CliRunner) -> None:
    """`streams version` prints the versions that a bug report needs."""
    output = runner.invoke(main, ["version"]).output
    assert f"faust-streaming  {metadata.version('faust-streaming')}" in output
