"""What made a transaction fail."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.clients.refusals import cause_of


class Client:
    """Refuses to begin a transaction with this error; None: it begins."""

    def __init__(self, code: int | None) -> None:
        self._code = code

    def begin_transaction(self) -> None:
        if self._code is not None:
            raise KafkaException(KafkaError(self._code))


@pytest.mark.parametrize(
    ("said", "tells", "cause"),
    [
        (KafkaError._STATE, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED),
        (KafkaError._FATAL, KafkaError._FENCED, KafkaError._FENCED),
        (KafkaError._STATE, KafkaError._STATE, KafkaError._STATE),
        (KafkaError._STATE, KafkaError._CONFLICT, KafkaError._STATE),  # another thread is in a call of its own
        (KafkaError._STATE, None, KafkaError._STATE),
        (KafkaError._TRANSPORT, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._TRANSPORT),
    ],
)
def test_the_cause_is_told_where_the_client_knows_it(said: int, tells: int | None, cause: int) -> None:
    """Else what was said stands."""
    client: Any = Client(tells)
    assert cause_of(KafkaError(said), client).code() == cause
