"""Settings: where they come from, what is refused, and what is never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streams.errors import SettingsError
from streams.settings import FILE_BYTES_MAX, SETTINGS, Settings, load_settings

_RANGES = [(setting.name, *setting.bounds) for setting in SETTINGS if setting.bounds is not None]

# What must be set beside a key at its lowest and highest, so that only its range is tested.
COMPANIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "batch_records_max": ({"inline_records_max": 0}, {"queue_records_max": 65_536}),
    "inline_records_max": ({}, {"batch_records_max": 65_536, "queue_records_max": 65_536}),
    "queue_records_max": ({"batch_records_max": 1, "inline_records_max": 0}, {}),
    "review_threshold": ({"decline_threshold": 1.0}, {"decline_threshold": 1.0}),
    "decline_threshold": ({"review_threshold": 0.0}, {"review_threshold": 0.0}),
}
SASL = {"security_protocol": "SASL_SSL", "sasl_username": "ann", "sasl_password": "hunter2"}


def refusal(env: dict[str, str] | None = None, **values: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(env=env or {}, **values)
    return str(caught.value)


def test_defaults_work() -> None:
    """Nothing has to be set."""
    assert load_settings(env={}) == Settings()


@pytest.mark.parametrize(("name", "low", "high"), _RANGES, ids=[name for name, _, _ in _RANGES])
def test_range_includes_its_ends_and_nothing_beyond(name: str, low: float, high: float) -> None:
    """The lowest and the highest value work; the next ones are refused with key, value and range."""
    at_low, at_high = COMPANIONS.get(name, ({}, {}))
    assert getattr(load_settings(env={}, **at_low, **{name: low}), name) == low
    assert getattr(load_settings(env={}, **at_high, **{name: high}), name) == high
    step = 1 if isinstance(low, int) else 0.01
    for value, beside in ((low - step, at_low), (high + step, at_high)):
        message = refusal(**beside, **{name: value})
        assert message == f"{name}={value}: expected {low} to {high}"


@pytest.mark.parametrize("name", [name for name, low, _ in _RANGES if isinstance(low, float)])
def test_not_a_number_is_in_no_range(name: str) -> None:
    """NaN compares with nothing, and is refused all the same."""
    assert refusal(**{name: float("nan")}).startswith(f"{name}=nan: expected ")


def test_every_number_has_a_range() -> None:
    """A new numeric setting must say what can work."""
    numeric = {setting.name for setting in SETTINGS if setting.kind in (int, float)}
    assert {name for name, _, _ in _RANGES} == numeric


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"queue_records_max": 100}, ("queue_records_max=100", "batch_records_max=2048", "raise it")),
        ({"inline_records_max": 4_096}, ("inline_records_max=4096", "batch_records_max=2048", "lower it")),
        ({"review_threshold": 0.5}, ("review_threshold", "decline_threshold", "set both or neither")),
        ({"decline_threshold": 0.5}, ("review_threshold", "decline_threshold", "set both or neither")),
        (
            {"review_threshold": 0.9, "decline_threshold": 0.5},
            ("review_threshold=0.9", "decline_threshold=0.5", "lower it"),
        ),
        ({"dtype": "bfloat16", "device": "cpu"}, ("dtype=bfloat16", "device=cuda", "use dtype=float32")),
        ({"security_protocol": "SASL_SSL"}, ("security_protocol=SASL_SSL", "needs sasl_username and sasl_password")),
        (SASL | {"sasl_password": ""}, ("security_protocol=SASL_SSL", "needs sasl_username and sasl_password")),
        (SASL | {"security_protocol": "SSL"}, ("sasl_username", "security_protocol=SSL", "use SASL_SSL")),
        ({"security_protocol": "SSL", "ssl_key_location": "k"}, ("ssl_certificate_location", "set both or neither")),
        ({"ssl_ca_location": "ca.pem"}, ("ssl_ca_location", "security_protocol=PLAINTEXT", "use SSL or SASL_SSL")),
        (
            SASL | {"security_protocol": "SASL_PLAINTEXT", "ssl_key_password": "x"},
            ("ssl_key_password", "security_protocol=SASL_PLAINTEXT", "use SSL or SASL_SSL"),
        ),
        ({"application_id": " "}, ("application_id=", "topics and transactional ids begin with it")),
        ({"http_port": 65_535, "worker_slot": 5}, ("http_port=65535", "worker_slot=5", "lower http_port")),
        ({"ssl_ca_location": "ca.pem"}, ("ssl_ca_location", "security_protocol=PLAINTEXT", "use SSL or SASL_SSL")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_combination_that_cannot_work_is_refused(values: dict[str, Any], parts: tuple[str, ...]) -> None:
    """The message has the key, the value and the remedy."""
    message = refusal(**values)
    assert all(part in message for part in parts), message


def test_combinations_that_work_are_accepted() -> None:
    """What stands next to a refused combination works."""
    load_settings(env={}, **SASL)
    load_settings(env={}, review_threshold=0.5, decline_threshold=0.5)
    load_settings(env={}, dtype="bfloat16", device="cuda")
    load_settings(env={}, queue_records_max=2_048, inline_records_max=2_048)


def test_argument_wins_over_environment_wins_over_file(tmp_path: Path) -> None:
    """Each source overrides the one before it, key by key; what none names keeps its default."""
    file = tmp_path / "mine.toml"
    file.write_text("top_k = 5\npartitions = 6\nhttp_port = 7000\n")
    env = {"STREAMS_CONFIG": str(file), "STREAMS_PARTITIONS": "8", "STREAMS_HTTP_PORT": "7001"}
    loaded = load_settings(env=env, http_port=7_002)
    assert (loaded.top_k, loaded.partitions, loaded.http_port) == (5, 8, 7_002)
    assert loaded.batch_records_max == Settings().batch_records_max


def test_named_file_wins_over_the_environments(tmp_path: Path) -> None:
    """The argument `path` takes the place of STREAMS_CONFIG."""
    ours, theirs = tmp_path / "ours.toml", tmp_path / "theirs.toml"
    ours.write_text("top_k = 5\n")
    theirs.write_text("top_k = 6\n")
    assert load_settings(ours, env={"STREAMS_CONFIG": str(theirs)}).top_k == 5


def test_empty_variable_sets_nothing() -> None:
    """STREAMS_TOP_K="" is the same as no variable, as compose files leave it."""
    assert load_settings(env={"STREAMS_TOP_K": "", "STREAMS_CONFIG": ""}).top_k == Settings().top_k


def test_unknown_key_is_refused_with_its_place(tmp_path: Path) -> None:
    """A misspelt key in a file or an argument is an error that names the file; other programs' variables are not ours."""
    file = tmp_path / "mine.toml"
    file.write_text("topk = 5\n")
    assert refusal(path=file) == f"{file}: topk: unknown key; `streams settings` lists them all"
    assert refusal(topk=5).startswith("topk: unknown key")
    assert load_settings(env={"STREAMS_TEST_BOOTSTRAP_SERVERS": "kafka:9092"}) == Settings()


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"STREAMS_TOP_K": "many"}, "STREAMS_TOP_K: expected int, got 'many'"),
        ({"STREAMS_DEVICE": "tpu"}, "STREAMS_DEVICE: expected one of auto, cpu, cuda, got 'tpu'"),
        ({"STREAMS_TOP_K": "0"}, "top_k=0: expected 1 to 1000"),
    ],
)
def test_wrong_value_in_the_environment_names_the_variable(env: dict[str, str], message: str) -> None:
    """The message has the place, what was expected and what came."""
    assert refusal(env=env) == message


def test_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A missing file, one that is not TOML, a wrong type and a refused combination all name the file."""
    file = tmp_path / "mine.toml"
    assert refusal(path=file).startswith(f"{file}: cannot be read")
    file.write_text("top_k = \n")
    assert refusal(path=file).startswith(f"{file}: expected TOML")
    for text in ("a = " + "[" * 60_000, "top_k = " + "1" * 60_000, "\udcff"):
        file.write_text(text, errors="surrogateescape")
        assert refusal(path=file).startswith(f"{file}: expected TOML")
    file.write_text('state_dir = "a\\u0000b"\n')
    assert refusal(path=file) == f"{file}: state_dir: expected text without NUL characters, got one; remove it"
    file.write_text("#" * (FILE_BYTES_MAX + 1))
    assert refusal(path=file).startswith(f"{file}: expected at most {FILE_BYTES_MAX} bytes")
    file.write_text('top_k = "5"\n')
    assert refusal(path=file) == f"{file}: top_k: expected int, got '5'"
    file.write_text("application_id = ' '\n")
    assert refusal(path=file).startswith(f"{file}: application_id=")


def test_secrets_are_in_no_repr_and_no_error(tmp_path: Path) -> None:
    """Logs and tracebacks carry settings and errors, never a password."""
    secrets = [setting.name for setting in SETTINGS if setting.is_secret]
    assert secrets == ["http_token", "sasl_password", "ssl_key_password"]
    loaded = load_settings(env={}, **SASL, ssl_key_password="hunter3", http_token="hunter4")
    assert "hunter" not in repr(loaded) and "ann" in repr(loaded)
    file = tmp_path / "mine.toml"
    for name in secrets:
        file.write_text(f"{name} = 12345\n")
        assert refusal(path=file) == f"{file}: {name}: expected str, got ***"
        assert "54321" not in refusal(**{name: 54_321})
    assert "hunter2" not in refusal(**SASL | {"security_protocol": "PLAINTEXT"})


def test_librdkafka_gets_the_security_settings() -> None:
    """A client of the cluster is told of users and certificates, and of nothing that is not set."""
    plain = load_settings(env={}, bootstrap_servers="kafka:9092").librdkafka()
    assert plain == {"bootstrap.servers": "kafka:9092", "security.protocol": "PLAINTEXT"}
    secured = load_settings(env={}, bootstrap_servers="kafka:9093", ssl_ca_location="/etc/ca.pem", **SASL).librdkafka()
    assert secured == {
        "bootstrap.servers": "kafka:9093",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "ann",
        "sasl.password": "hunter2",
        "ssl.ca.location": "/etc/ca.pem",
    }


def test_no_address_and_no_embedded_broker_is_told_with_the_remedy(tmp_path: Path) -> None:
    """Who has set nothing learns what to do."""
    settings = load_settings(env={}, state_dir=str(tmp_path))
    with pytest.raises(SettingsError, match=r"`streams kafka start` or set STREAMS_BOOTSTRAP_SERVERS"):
        settings.brokers()


def test_slot_names_the_group_instance() -> None:
    """Static membership needs a slot; without one the worker is an ordinary member."""
    assert load_settings(env={}).group_instance_id is None
    assert load_settings(env={}, worker_slot=3, application_id="mine").group_instance_id == "mine-3"


def test_variable_that_is_no_setting_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt variable is not read, and a warning says so with the key that is close."""
    assert load_settings(env={"STREAMS_TOPK": "5"}).top_k == Settings().top_k
    assert "STREAMS_TOPK" in caplog.text and "did you mean STREAMS_TOP_K?" in caplog.text
