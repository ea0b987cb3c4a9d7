"""Settings: defaults stand here, files and the environment override them, impossible combinations are refused at start.

Later sources win: the defaults below, the file named by `STREAMS_CONFIG`, `STREAMS_<KEY>` variables, keyword arguments.
Each setting stands in one place: type, limits, meaning and default. Groups hold related settings; keys are flat.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from streams.contract.topics import Topics
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


def says(meaning: str, low: float | None = None, high: float | None = None, *, secret: bool = False) -> Meta:
    """Return the metadata of a setting: its meaning, its limits, and whether its value is a secret."""
    return Meta(description=meaning, ge=low, le=high, extra={"secret": secret})


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster, and this application's names on it."""

    bootstrap_servers: Annotated[
        str, says("host:port[,host:port] of the cluster; empty: the broker of `streams kafka start`")
    ] = ""
    application_id: Annotated[str, says("consumer group, and prefix of the state topics and transactional ids")] = (
        "streams"
    )
    topic_prefix: Annotated[
        str, says("prefix of the six public topics' names, so that several applications share a cluster")
    ] = ""
    guarantee: Annotated[Guarantee, says("delivery guarantee of decisions")] = "exactly_once"
    state_dir: Annotated[str, says("folder of the embedded broker, of the checkpoint files and of Faust's own")] = (
        field(default_factory=_state_dir)
    )
    worker_slot: Annotated[
        int | None, says("small number, stable for a worker: static membership, transactional id, port offset", 0, 999)
    ] = None
    partitions: Annotated[int, says("partitions of each topic when it is created", 1, 1000)] = 4
    replication_factor: Annotated[int, says("replicas of each topic when it is created", 1, 9)] = 1


@dataclass(frozen=True, kw_only=True)
class Models:
    """Frozen models and where they run."""

    device: Annotated[Device, says("where the models run; auto takes CUDA when it is there")] = "auto"
    dtype: Annotated[Dtype, says("arithmetic of the networks; bfloat16 on CUDA only")] = "float32"
    torch_threads: Annotated[int, says("intra-op threads of torch on the CPU", 1, 256)] = 1
    fraud_artifact: Annotated[str, says("folder of the fraud artifact; empty: the one that ships")] = ""
    recommender_artifact: Annotated[str, says("folder of the recommender artifact; empty: the one that ships")] = ""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """From a fetch to a micro-batch."""

    batch_records_max: Annotated[int, says("records in one micro-batch", 1, 65_536)] = 2048
    wait_ms_max: Annotated[float, says("how long a micro-batch may wait for more records; 0: never", 0.0, 1_000.0)] = (
        0.0
    )
    inline_records_max: Annotated[
        int, says("micro-batches up to this size run on the event loop, larger ones on the device thread", 0, 65_536)
    ] = 512
    queue_records_max: Annotated[int, says("unconfirmed records per topic at which fetching pauses", 1, 1_000_000)] = (
        16_384
    )
    queue_bytes_max: Annotated[
        int, says("unconfirmed bytes per topic at which fetching pauses", 1_048_576, 17_179_869_184)
    ] = 67_108_864
    fetch_records_max: Annotated[
        int, says("records of one partition in one piece; a micro-batch takes whole pieces", 1, 100_000)
    ] = 1_000
    fetch_wait_ms_max: Annotated[
        int,
        says(
            "how long the broker may collect records for one fetch while records flow; 4 times as long after 64 in one fetch",
            0,
            1_000,
        ),
    ] = 2


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Commits, checkpoints, stops."""

    commit_interval_ms: Annotated[
        int | None,
        says(
            "time between commits, of transactions or of offsets; unset: 20 with exactly_once, 100 with at_least_once",
            10,
            60_000,
        ),
    ] = None
    checkpoint_interval_s: Annotated[float, says("time between checkpoints of the feature state", 0.1, 3_600.0)] = 10.0
    checkpoint_files: Annotated[
        FilesKept,
        says("partitions whose checkpoints are kept as files: none, own (fast restart), or all (warm standby)"),
    ] = "own"
    drain_s_max: Annotated[float, says("how long a stopping worker may finish what it has begun", 0.1, 60.0)] = 8.0
    stall_s_max: Annotated[
        float,
        says("how long a partition may make no progress before the worker stops, to be restarted", 15.0, 86_400.0),
    ] = 120.0
    session_timeout_s: Annotated[
        float, says("silence after which the group takes a worker's partitions away", 6.0, 300.0)
    ] = 10.0


@dataclass(frozen=True, kw_only=True)
class Input:
    """Bounds on input records."""

    record_bytes_max: Annotated[
        int, says("size of an input record's value; larger ones become dead letters", 1_024, 16_777_216)
    ] = 65_536
    event_time_ahead_s_max: Annotated[int, says("how far event_time may lie in the future", 0, 315_360_000)] = 86_400
    duplicates_horizon_h: Annotated[
        float, says("hours for which an id is remembered, so that a repeated record is decided once", 0.001, 8_760.0)
    ] = 24.0


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """Contents of decisions and recommendations."""

    review_threshold: Annotated[
        float | None, says("score from which a payment is reviewed; unset: the artifact's", 0.0, 1.0)
    ] = None
    decline_threshold: Annotated[
        float | None, says("score from which a payment is declined; unset: the artifact's", 0.0, 1.0)
    ] = None
    reasons_max: Annotated[int, says("reasons named with a review or a decline", 0, 50)] = 3
    top_k: Annotated[int, says("items of a recommendation", 1, 1_000)] = 20
    seen_items: Annotated[
        SeenItems, says("items that the session has seen: never recommended, or ranked as any other")
    ] = "drop"
    new_items: Annotated[NewItems, says("items that the model has never seen: recommended once clicked, or never")] = (
        "recommend"
    )


@dataclass(frozen=True, kw_only=True)
class Degraded:
    """Decisions while a model fails."""

    model_failure: Annotated[
        ModelFailure,
        says(
            "when the model fails for everything: stop, or decide without it, marked degraded, until it answers again"
        ),
    ] = "stop"
    rule_card_count_10min: Annotated[
        int, says("degraded: payments of a card within 10 minutes from which a payment is reviewed", 2, 1_000)
    ] = 4
    rule_amount_over_typical: Annotated[
        float, says("degraded: multiple of the card's usual amount from which a payment is reviewed", 1.01, 1_001.0)
    ] = 5.0
    rule_terminal_frauds: Annotated[
        float,
        says(
            "degraded: frauds among a terminal's last 5 labelled payments from which a payment is reviewed; 6: never",
            0.1,
            6.0,
        ),
    ] = 2.0
    rule_night_amount: Annotated[
        float, says("degraded: amount from which a payment between 00:00 and 07:00 UTC is reviewed", 0.01, 1e12)
    ] = 500.0


@dataclass(frozen=True, kw_only=True)
class Http:
    """The worker's pages."""

    http_host: Annotated[str, says("address of /live, /ready and /metrics")] = "127.0.0.1"
    http_port: Annotated[int, says("port of /live, /ready and /metrics, plus worker_slot", 1, 65_535)] = 6066
    http_token: Annotated[
        str,
        says("token (Authorization: Bearer) for HTTP methods other than GET and HEAD; empty: all refused", secret=True),
    ] = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Security:
    """TLS and users."""

    security_protocol: Annotated[SecurityProtocol, says("as in librdkafka's security.protocol")] = "PLAINTEXT"
    sasl_mechanism: Annotated[SaslMechanism, says("as in librdkafka's sasl.mechanism")] = "PLAIN"
    sasl_username: Annotated[str, says("SASL user")] = ""
    sasl_password: Annotated[str, says("SASL password", secret=True)] = field(default="", repr=False)
    ssl_ca_location: Annotated[str, says("file of the certificate authority; empty: the system's")] = ""
    ssl_certificate_location: Annotated[str, says("file of the client's certificate")] = ""
    ssl_key_location: Annotated[str, says("file of the client's key")] = ""
    ssl_key_password: Annotated[str, says("password of the client's key", secret=True)] = field(default="", repr=False)


GROUPS = (Cluster, Models, Batching, Recovery, Input, Decisions, Degraded, Http, Security)


class Setting(NamedTuple):
    """The declaration of one setting.

    Attributes:
        name: its key in files; `STREAMS_<NAME>` in the environment.
        group: the group that declares it.
        kind: the type of its values, without limits; unset is allowed where it is optional.
        bounds: lowest and highest value that can work; None where it has no limits.
        meaning: one line.
        is_secret: its value is never shown.
        default: None where it is unset or not fixed.
    """

    name: str
    group: type
    kind: Any
    bounds: tuple[float, float] | None
    meaning: str
    is_secret: bool
    default: Any

    def initial(self) -> Any:
        """Return the value in use where no source sets it."""
        return _state_dir() if self.name == "state_dir" else self.default


def _declared() -> Iterator[Setting]:
    for group in GROUPS:
        hints = get_type_hints(group, include_extras=True)
        for declared in fields(group):
            kind, meta = get_args(hints[declared.name])
            kind = next((each for each in get_args(kind) if isinstance(each, type) and each is not type(None)), kind)
            bounds = None if meta.ge is None else (meta.ge, meta.le)
            default = None if declared.default is MISSING else declared.default
            yield Setting(
                declared.name,
                group,
                kind,
                bounds=bounds,
                meaning=meta.description,
                is_secret=meta.extra["secret"],
                default=default,
            )


SETTINGS = tuple(_declared())


@dataclass(frozen=True, kw_only=True)
class Settings(Security, Http, Degraded, Decisions, Input, Recovery, Batching, Models, Cluster):
    """Every setting of the worker and of the commands. Frozen; see `load_settings`."""

    def __post_init__(self) -> None:
        for setting in SETTINGS:
            value = getattr(self, setting.name)
            if setting.bounds is not None and value is not None and not setting.bounds[0] <= value <= setting.bounds[1]:
                raise SettingsError(f"{setting.name}={value}: expected {setting.bounds[0]} to {setting.bounds[1]}")
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
        if not re.fullmatch(r"[A-Za-z0-9._-]{0,100}", self.topic_prefix):
            raise SettingsError(
                f"topic_prefix={self.topic_prefix!r}: expected up to 100 letters, digits, dots, dashes or underscores, "
                "since topics' names begin with it"
            )
        if self.http_port + (self.worker_slot or 0) > 65_535:
            raise SettingsError(
                f"http_port={self.http_port} plus worker_slot={self.worker_slot} exceeds 65535; lower http_port"
            )

    @property
    def commit_interval_s(self) -> float:
        """Seconds between commits.

        With exactly_once a consumer sees a decision when its transaction commits: half of the interval is latency.
        With at_least_once a commit holds offsets only and delays no consumer.
        """
        default_ms = 20 if self.guarantee == "exactly_once" else 100
        return (default_ms if self.commit_interval_ms is None else self.commit_interval_ms) / 1000.0

    @property
    def group_instance_id(self) -> str | None:
        """Static membership's id; None where no slot is set."""
        return None if self.worker_slot is None else f"{self.application_id}-{self.worker_slot}"

    @property
    def topics(self) -> Topics:
        """The public topics by their names on the cluster."""
        return Topics.under(self.topic_prefix)

    def brokers(self) -> str:
        """Return the address in use.

        Raises:
            SettingsError: no address is set and no embedded broker runs.
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


# A file of all keys, with long paths, takes a few KB. The bound limits nesting too, with which the parser's time grows.
FILE_BYTES_MAX = 65_536


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
    if isinstance(value, str) and "\0" in value:  # valid in TOML, in no path or name
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


# STREAMS_ variables that are not settings: the file's path, and a variable of the tests.
_NOT_KEYS = frozenset({"STREAMS_CONFIG", "STREAMS_TEST_BOOTSTRAP_SERVERS"})
_SECRETS = frozenset(each.name for each in SETTINGS if each.is_secret)
