"""The first contact with the cluster: one client, one deadline, one sentence that says what is wrong."""

from __future__ import annotations

import time
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from streams.errors import KafkaUnavailable
from streams.settings import Settings

# A healthy cluster answers in milliseconds; ten seconds cover a broker that is still starting.
ANSWER_S_MAX: Final = 10.0
# librdkafka prints each failed connection on stderr; we say it once, in a sentence.
QUIET: Final[dict[str, Any]] = {"log_level": 0}
# Waiting does not make a certificate trusted or a password right; the other brokers had this long to answer.
REFUSED: Final = frozenset({KafkaError._SSL, KafkaError._AUTHENTICATION})
REFUSED_S: Final = 1.0


def connect(settings: Settings) -> AdminClient:
    """Return an admin client of a cluster that has just answered.

    Raises:
        KafkaUnavailable: no broker answered within ANSWER_S_MAX, or refused the client.
        SettingsError: no address is set and no embedded broker runs.
    """
    seen: list[KafkaError] = []
    config: dict[str, Any] = {**settings.librdkafka(), **QUIET}
    try:
        admin = AdminClient({**config, "error_cb": seen.append})
    except KafkaException as exc:
        raise KafkaUnavailable(f"Kafka client: expected settings that it accepts, got {exc.args[0].str()!r}") from exc
    deadline = time.monotonic() + ANSWER_S_MAX
    while True:
        try:
            admin.list_topics(timeout=REFUSED_S)
        except KafkaException as exc:
            admin.poll(0)  # hands over the causes: "connection refused" says more than "transport failure"
            refusals = [error for error in seen if error.code() in REFUSED]
            if refusals or time.monotonic() > deadline:
                causes = [error for error in seen if error.code() != KafkaError._ALL_BROKERS_DOWN]
                cause = (refusals or causes or [exc.args[0]])[-1].str()
                raise KafkaUnavailable(
                    f"bootstrap_servers={config['bootstrap.servers']}: expected a broker's answer within "
                    f"{ANSWER_S_MAX:.0f} s, got {cause!r}; "
                    "check the address and the security settings, or run `streams kafka start`"
                ) from exc
        else:
            return admin
