"""Settings: defaults here, files and the environment only override, impossible combinations are refused at start.

Order, the later wins: the defaults below, the file named by `STREAMS_CONFIG`, `STREAMS_<KEY>` variables, keyword arguments.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from streams.errors import SettingsError

logger = logging.getLogger(__name__)

Guarantee = Literal["at_least_once", "exactly_once"]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
FilesKept = Literal["none", "own", "all"]
SeenItems = Literal["drop", "keep"]
NewItems = Literal["recommend", "ignore"]
ModelFailure = Literal["stop", "degrade"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


def _state_dir() -> str:
    base = os.environ.get("XDG_STATE_HOME")
    return str((Path(base) if base else Path.home() / ".local" / "state") / "streams")


def setting(default: Any, doc: str, *, secret: bool = False) -> Any:
    """Declare one setting: its default and its meaning; the table in the README is made from these."""
    kind = "default_factory" if callable(default) else "default"
    return field(**{kind: default}, metadata={"doc": doc, "secret": secret}, repr=not secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting of the worker and of the commands. Frozen; see `load_settings`."""

    bootstrap_servers: str = setting(
        "", "host:port[,host:port] of the cluster; empty: the broker of `streams kafka start`"
    )
    application_id: str = setting("streams", "consumer group, and prefix of the state topics and transactional ids")
    guarantee: Guarantee = setting("exactly_once", "delivery guarantee of decisions")
    state_dir: str = setting(_state_dir, "folder of the embedded broker, of the checkpoint files and of Faust's own")
    worker_slot: int | None = setting(
        None, "small number, stable for a worker: static membership, transactional id, port offset"
    )
    partitions: int = setting(4, "partitions of each topic when it is created")
    replication_factor: int = setting(1, "replicas of each topic when it is created")

    device: Device = setting("auto", "where the models run; auto takes CUDA when it is there")
    dtype: Dtype = setting("float32", "arithmetic of the networks; bfloat16 on CUDA only")
    torch_threads: int = setting(1, "intra-op threads of torch on the CPU")
    fraud_artifact: str = setting("", "folder of the fraud artifact; empty: the one that ships")
    recommender_artifact: str = setting("", "folder of the recommender artifact; empty: the one that ships")

    batch_records_max: int = setting(2048, "records in one micro-batch")
    wait_ms_max: float = setting(0.0, "how long a micro-batch may wait for more records; 0: never")
    inline_records_max: int = setting(
        512, "micro-batches up to this size run on the event loop, larger ones on the device thread"
    )
    queue_records_max: int = setting(
        16_384, "records of a topic delivered and not yet confirmed before fetching pauses"
    )
    queue_bytes_max: int = setting(67_108_864, "bytes of these records before fetching pauses")
    fetch_records_max: int = setting(1_000, "records of one partition in one piece, the least that a micro-batch takes")
    fetch_wait_ms_max: int = setting(
        2,
        "while records flow, how long the broker may collect them for one fetch; 4 times as long after one of 64 records",
    )
    commit_interval_ms: int | None = setting(
        None, "time between commits, of transactions or of offsets; unset: 20 with exactly_once, 100 with at_least_once"
    )
    checkpoint_interval_s: float = setting(10.0, "time between checkpoints of the feature state")
    checkpoint_files: FilesKept = setting(
        "own", "checkpoints also kept as files, for a fast restart: of own partitions; of all: a warm standby; or none"
    )
    drain_s_max: float = setting(8.0, "how long a stopping worker may finish what it has begun")
    stall_s_max: float = setting(120.0, "how long a partition may stand still before the worker stops to begin anew")
    session_timeout_s: float = setting(10.0, "silence after which the group takes a worker's partitions away")

    record_bytes_max: int = setting(65_536, "size of an input record's value; larger ones become dead letters")
    event_time_ahead_s_max: int = setting(86_400, "how far event_time may lie in the future")

    duplicates_horizon_h: float = setting(
        24.0, "hours for which an id is remembered, so that a repeated record is decided once"
    )

    review_threshold: float | None = setting(None, "score from which a payment is reviewed; unset: the artifact's")
    decline_threshold: float | None = setting(None, "score from which a payment is declined; unset: the artifact's")
    reasons_max: int = setting(3, "reasons named with a review or a decline")
    top_k: int = setting(20, "items of a recommendation")
    seen_items: SeenItems = setting(
        "drop", "items that the session has seen: never recommended, or ranked as any other"
    )
    new_items: NewItems = setting(
        "recommend", "items that the model has never seen: recommended once clicked, or never"
    )

    model_failure: ModelFailure = setting(
        "stop",
        "when the model fails for everything: stop, or decide without it, marked degraded, until it answers again",
    )
    rule_card_count_10min: int = setting(
        4, "degraded: payments of a card within 10 minutes from which they are reviewed"
    )
    rule_amount_over_typical: float = setting(
        5.0, "degraded: multiple of what the card usually pays from which a payment is reviewed"
    )
    rule_terminal_frauds: float = setting(
        2.0,
        "degraded: frauds among a terminal's last 5 labelled payments from which its payments are reviewed; 6: never",
    )
    rule_night_amount: float = setting(
        500.0, "degraded: amount from which a payment between 00:00 and 07:00 UTC is reviewed"
    )

    http_host: str = setting("127.0.0.1", "address of /live, /ready and /metrics")
    http_port: int = setting(6066, "port of /live, /ready and /metrics, plus worker_slot")
    http_token: str = setting(
        "", "token (Authorization: Bearer) for HTTP methods other than GET and HEAD; empty: all refused", secret=True
    )

    security_protocol: SecurityProtocol = setting("PLAINTEXT", "as in librdkafka's security.protocol")
    sasl_mechanism: SaslMechanism = setting("PLAIN", "as in librdkafka's sasl.mechanism")
    sasl_username: str = setting("", "SASL user")
    sasl_password: str = setting("", "SASL password", secret=True)
    ssl_ca_location: str = setting("", "file of the certificate authority; empty: the system's")
    ssl_certificate_location: str = setting("", "file of the client's certificate")
    ssl_key_location: str = setting("", "file of the client's key")
    ssl_key_password: str = setting("", "password of the client's key", secret=True)

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise SettingsError(f"{name}={value}: expected {low} to {high}")
        if self.queue_records_max < self.batch_records_max:
            raise SettingsError(
                f"queue_records_max={self.queue_records_max} is below batch_records_max={self.batch_records_max}; "
                "raise it, or no full batch can ever form"
            )
        if self.inline_records_max > self.batch_records_max:
            raise SettingsError(
                f"inline_records_max={self.inline_records_max} exceeds batch_records_max={self.batch_records_max}; "
                "lower it, or raise batch_records_max"
            )
        review, decline = self.review_threshold, self.decline_threshold
        if (review is None) != (decline is None):
            raise SettingsError("review_threshold and decline_threshold go together; set both or neither")
        if review is not None and decline is not None and review > decline:
            raise SettingsError(f"review_threshold={review} exceeds decline_threshold={decline}; lower it")
        if self.dtype == "bfloat16" and self.device == "cpu":
            raise SettingsError("dtype=bfloat16 needs device=cuda; use dtype=float32 on the CPU")
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password):
            raise SettingsError(f"security_protocol={self.security_protocol} needs sasl_username and sasl_password")
        if not self.security_protocol.startswith("SASL") and (self.sasl_username or self.sasl_password):
            raise SettingsError(
                f"sasl_username is set but security_protocol={self.security_protocol}; use SASL_SSL or SASL_PLAINTEXT"
            )
        if bool(self.ssl_certificate_location) != bool(self.ssl_key_location):
            raise SettingsError("ssl_certificate_location and ssl_key_location go together; set both or neither")
        if not self.security_protocol.endswith("SSL"):
            for key in ("ssl_ca_location", "ssl_certificate_location", "ssl_key_location", "ssl_key_password"):
                if getattr(self, key):
                    raise SettingsError(
                        f"{key} is set but security_protocol={self.security_protocol}; use SSL or SASL_SSL"
                    )
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", self.application_id):
            raise SettingsError(
                f"application_id={self.application_id!r}: expected 1 to 200 letters, digits, dots, dashes or underscores, "
                "since topics and transactional ids begin with it"
            )
        if self.http_port + (self.worker_slot or 0) > 65_535:
            raise SettingsError(
                f"http_port={self.http_port} plus worker_slot={self.worker_slot} exceeds 65535; lower http_port"
            )

    @property
    def commit_interval_s(self) -> float:
        """Seconds between commits.

        With exactly_once a reader sees a decision when its transaction commits, so that half of it is latency; offsets
        alone are in nobody's way.
        """
        default_ms = 20 if self.guarantee == "exactly_once" else 100
        return (default_ms if self.commit_interval_ms is None else self.commit_interval_ms) / 1000.0

    @property
    def group_instance_id(self) -> str | None:
        """Static membership's id; None where no slot is set."""
        return None if self.worker_slot is None else f"{self.application_id}-{self.worker_slot}"

    def brokers(self) -> str:
        """Return the address in use.

        Raises:
            SettingsError: none is set and no embedded broker runs.
        """
        if self.bootstrap_servers:
            return self.bootstrap_servers
        from streams.kafka import running

        address = running(Path(self.state_dir))
        if address is None:
            raise SettingsError(
                "bootstrap_servers is empty and no embedded broker runs; "
                "run `streams kafka start` or set STREAMS_BOOTSTRAP_SERVERS"
            )
        return address

    def librdkafka(self) -> dict[str, str]:
        """Return the connection settings of a confluent-kafka client."""
        config = {"bootstrap.servers": self.brokers(), "security.protocol": self.security_protocol}
        if self.security_protocol.startswith("SASL"):
            config |= {
                "sasl.mechanism": self.sasl_mechanism,
                "sasl.username": self.sasl_username,
                "sasl.password": self.sasl_password,
            }
        for key in ("ssl_ca_location", "ssl_certificate_location", "ssl_key_location", "ssl_key_password"):
            if value := getattr(self, key):
                config[key.replace("_", ".")] = value
        return config


# Every key with a long path is a few KB; the parser's time grows with nesting, which this bounds too.
FILE_BYTES_MAX = 65_536

# name, lowest, highest that can work; the README's table shows them.
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("worker_slot", 0, 999),
    ("partitions", 1, 1000),
    ("replication_factor", 1, 9),
    ("torch_threads", 1, 256),
    ("batch_records_max", 1, 65_536),
    ("wait_ms_max", 0.0, 1_000.0),
    ("inline_records_max", 0, 65_536),
    ("queue_records_max", 1, 1_000_000),
    ("queue_bytes_max", 1_048_576, 17_179_869_184),
    ("fetch_records_max", 1, 100_000),
    ("fetch_wait_ms_max", 0, 1_000),
    ("commit_interval_ms", 10, 60_000),
    ("checkpoint_interval_s", 0.1, 3_600.0),
    ("drain_s_max", 0.1, 60.0),
    ("stall_s_max", 15.0, 86_400.0),
    ("session_timeout_s", 6.0, 300.0),
    ("record_bytes_max", 1_024, 16_777_216),
    ("event_time_ahead_s_max", 0, 315_360_000),
    ("duplicates_horizon_h", 0.001, 8_760.0),
    ("review_threshold", 0.0, 1.0),
    ("decline_threshold", 0.0, 1.0),
    ("reasons_max", 0, 50),
    ("top_k", 1, 1_000),
    ("rule_card_count_10min", 2, 1_000),
    ("rule_amount_over_typical", 1.01, 1_001.0),
    ("rule_terminal_frauds", 0.1, 6.0),
    ("rule_night_amount", 0.01, 1e12),
    ("http_port", 1, 65_535),
)


def load_settings(path: str | Path | None = None, env: Mapping[str, str] = os.environ, **overrides: Any) -> Settings:
    """Return the settings from file, environment and arguments.

    Args:
        path: TOML file; None takes the one named by `STREAMS_CONFIG`, if any.
        env: environment; `STREAMS_<KEY>` sets a key, an empty value leaves it unset.
        overrides: keys that win over both.

    Raises:
        SettingsError: unreadable file, unknown key, wrong type, or a combination that cannot work.
    """
    hints = get_type_hints(Settings)
    values: dict[str, Any] = {}
    path = path or env.get("STREAMS_CONFIG") or None
    if path is not None:
        for key, value in _read_toml(Path(path)).items():
            values[key] = _convert(f"{path}: {key}", key, value, hints, strict=True)
    for name, text in env.items():
        key = name.removeprefix("STREAMS_").lower()
        if not name.startswith("STREAMS_") or name in _NOT_KEYS or text == "":
            continue
        if key not in hints:
            close = difflib.get_close_matches(key, hints, 1)
            hint = f"did you mean STREAMS_{close[0].upper()}?" if close else "`streams settings` lists them all"
            logger.warning("%s: no such setting, it is not read; %s", name, hint)
            continue
        values[key] = _convert(name, key, text, hints, strict=False)
    for key, value in overrides.items():
        values[key] = _convert(key, key, value, hints, strict=True)
    try:
        return Settings(**values)
    except SettingsError as exc:
        raise SettingsError(f"{path}: {exc}" if path else str(exc)) from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as exc:
        raise SettingsError(f"{path}: cannot be read ({exc.strerror}); check the path in STREAMS_CONFIG") from exc
    if len(data) > FILE_BYTES_MAX:
        raise SettingsError(f"{path}: expected at most {FILE_BYTES_MAX} bytes, got more; check the path")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as exc:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise SettingsError(f"{path}: expected TOML, got {exc}") from exc


def _convert(place: str, key: str, value: Any, hints: Mapping[str, Any], *, strict: bool) -> Any:
    hint = hints.get(key)
    if hint is None:
        raise SettingsError(f"{place}: unknown key; `streams settings` lists them all")
    if isinstance(value, str) and "\0" in value:  # TOML can say it, no path or name can hold it
        raise SettingsError(f"{place}: expected text without NUL characters, got one; remove it")
    try:
        return msgspec.convert(value, hint, strict=strict)
    except (msgspec.ValidationError, UnicodeEncodeError):  # a variable's bytes that are no UTF-8
        shown = "***" if key in _SECRETS else repr(value)
        raise SettingsError(f"{place}: expected {_expected(hint)}, got {shown}") from None


def _expected(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    return getattr(hint, "__name__", None) or str(hint).replace("None", "nothing")


# Variables of this name that are no settings: the file's path, and what the tests read.
_NOT_KEYS = frozenset({"STREAMS_CONFIG", "STREAMS_TEST_BOOTSTRAP_SERVERS"})
_SECRETS = frozenset(f.name for f in fields(Settings) if f.metadata["secret"])
