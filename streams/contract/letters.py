"""Dead letters: place, reason and original bytes of a refused record."""

import base64
from hashlib import sha256
from typing import Any

import orjson

from streams.contract.events import (
    LETTER_KEY_BYTES_MAX,
    LETTER_MESSAGE_CHARS_MAX,
    LETTER_VALUE_BYTES_MAX,
)


def encode_dead_letter(
    *,
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    stage: str,
    code: str,
    message: str,
) -> bytes:
    """Return the JSON value of a dead letter: origin, reason and the original bytes (see events.DeadLetter).

    With its Kafka key, cut alike to LETTER_KEY_BYTES_MAX, it takes less than 1,000,000 bytes for every record.
    """
    message = message[:LETTER_MESSAGE_CHARS_MAX]
    letter: dict[str, Any] = {"topic": topic, "partition": partition, "offset": offset, "key": None}
    if key is not None:
        head = key[:LETTER_KEY_BYTES_MAX]
        try:
            letter["key"] = head.decode()
        except UnicodeDecodeError:
            letter["key_base64"] = base64.b64encode(head).decode()
        if len(key) > len(head):
            letter |= {"key_bytes": len(key), "key_sha256": sha256(key).hexdigest()}
            message += f"; the letter has {len(head)} of {len(key)} bytes of the key"
    letter["value_base64"] = None
    if value is not None:
        head = value[:LETTER_VALUE_BYTES_MAX]
        letter["value_base64"] = base64.b64encode(head).decode()
        if len(value) > len(head):
            letter |= {"value_bytes": len(value), "value_sha256": sha256(value).hexdigest()}
            message += f"; the letter has {len(head)} of {len(value)} bytes of the value"
    letter |= {"stage": stage, "code": code, "message": message}
    return orjson.dumps(letter)
