"""JSON Schema and AsyncAPI documents of the public topics, made from the structs that validate the records."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from streams.contract.diagnosis import REJECTION_CODES
from streams.contract.topics import DEAD_LETTERS, INPUTS, OUTPUTS, Topic

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_KAFKA_BINDING = "0.5.0"
_VERSION = (
    "2.0.0"  # of the events: minor when an optional field is added, major when an old producer or consumer breaks
)

_OVERVIEW = """\
Payments and clicks come in; decisions, recommendations and dead letters go out.

Writing events: values are UTF-8 JSON objects of at most 64 KiB, keys are the UTF-8 text of the field named at each
message. Unknown fields pass. A repeated key, NaN and Infinity do not. Use Java's partitioner in every producer of a
topic (librdkafka: partitioner=murmur2_random), so that a card's payments, or a session's clicks, stay in order on one
partition. Leave the record's Kafka timestamp to the client: the topics keep records by it, and event time
has a field of its own. An invalid record goes to dead-letters with a code; its neighbours are decided.

Workers read one header, failed-at. `streams dead-letters replay` writes it to a record for which the model failed, so
that workers decide the record although its id has been seen.

Reading results: read with isolation.level=read_committed, and each decision comes once. Workers with
guarantee=at_least_once may repeat decisions after a restart: drop repeats by key and decision_id. Workers with
model_failure=degrade go on without a failing model: their answers have degraded: true, and their decisions no score.
"""

_EXAMPLE_VERSION = "3b7f1c52a9d04e8866c1f0a2d45b9e7731c08fd2e6a4b95170cc83e2f19d6a04"

# One or more values of each topic, valid and complete; the first shows every field, the others what may vary.
EXAMPLES: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "transactions": (
        {
            "transaction_id": "tx-000000012345",
            "event_time": 1712345678901,
            "card_id": "card-42",
            "terminal_id": "terminal-7",
            "amount": 57.16,
            "currency": "EUR",
            "user_id": "user-9",
            "channel": "contactless",
            "merchant_id": "merchant-3",
            "country": "NL",
        },
        {
            "transaction_id": 12346,
            "event_time": "2024-04-05T21:34:39.120+02:00",
            "card_id": 4971,
            "terminal_id": 7,
            "amount": 12,
            "basket": {"lines": 3},
        },
    ),
    "clickstream": (
        {
            "event_id": "click-1",
            "event_time": 1712345678901,
            "session_id": "session-9",
            "item_id": "item-1203",
            "event_type": "view",
            "user_id": "user-9",
        },
    ),
    "transaction-labels": (
        {
            "transaction_id": "tx-000000012345",
            "event_time": 1712345678901,
            "card_id": "card-42",
            "terminal_id": "terminal-7",
            "is_fraud": True,
        },
    ),
    "fraud-decisions": (
        {
            "decision_id": f"tx-000000012345@{_EXAMPLE_VERSION[:12]}",
            "transaction_id": "tx-000000012345",
            "card_id": "card-42",
            "terminal_id": "terminal-7",
            "amount": 57.16,
            "event_time": 1712345678901,
            "score": 0.93,
            "decision": "decline",
            "confidence": 0.93,
            "reasons": [
                {"feature": "baseline", "contribution": -6.2},
                {"feature": "terminal_risk", "contribution": 8.1},
                {"feature": "amount", "contribution": 0.9},
                {"feature": "other", "contribution": -0.2},
            ],
            "model": "fraud",
            "model_version": _EXAMPLE_VERSION,
            "decided_at": 1712345678909,
            "timings": {"queue_ms": 1.2, "inference_ms": 2.4},
        },
        {
            "decision_id": f"tx-000000012346@{_EXAMPLE_VERSION[:12]}",
            "transaction_id": "tx-000000012346",
            "card_id": "card-42",
            "terminal_id": "terminal-7",
            "amount": 612.5,
            "event_time": 1712345678901,
            "score": None,
            "decision": "review",
            "confidence": None,
            "reasons": [{"feature": "amount_over_typical", "contribution": None, "value": 8.25, "limit": 5.0}],
            "model": "fraud",
            "model_version": _EXAMPLE_VERSION,
            "decided_at": 1712345678909,
            "timings": {"queue_ms": 1.2, "inference_ms": 0.4},
            "strategy": "rules",
            "degraded": True,
        },
    ),
    "recommendations": (
        {
            "decision_id": f"click-1@{_EXAMPLE_VERSION[:12]}",
            "event_id": "click-1",
            "session_id": "session-9",
            "items": [{"item_id": "item-88", "score": 0.21}, {"item_id": "item-1", "score": 0.1}],
            "strategy": "sequence",
            "confidence": 0.31,
            "model": "recommender",
            "model_version": _EXAMPLE_VERSION,
            "event_time": 1712345678901,
            "decided_at": 1712345678909,
            "timings": {"queue_ms": 1.2, "inference_ms": 2.4},
        },
        {
            "decision_id": f"click-2@{_EXAMPLE_VERSION[:12]}",
            "event_id": "click-2",
            "session_id": "session-9",
            "items": [{"item_id": "item-1", "score": 0.01}],
            "strategy": "popular",
            "confidence": 0.01,
            "model": "recommender",
            "model_version": _EXAMPLE_VERSION,
            "event_time": 1712345678901,
            "decided_at": 1712345678909,
            "timings": {"queue_ms": 1.2, "inference_ms": 0.4},
            "degraded": True,
        },
    ),
    "dead-letters": (
        {
            "topic": "transactions",
            "partition": 3,
            "offset": 48213,
            "key": "card-42",
            "value_base64": "eyJhbW91bnQiOiAtMS41fQ==",
            "stage": "decode",
            "code": "out-of-range",
            "message": "amount: expected `float` >= 0.0, got -1.5",
        },
    ),
}


def json_schema(topic: Topic) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a public topic's values."""
    name, components = _components(topic, "#/$defs/{name}")
    schema: dict[str, Any] = components.pop(name)
    head = {"$schema": _DIALECT, "$id": f"urn:streams:{topic.name}:{_VERSION}"}
    return head | schema | {"examples": list(EXAMPLES[topic.name])} | ({"$defs": components} if components else {})


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document of all public topics, from the application's point of view."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for topic in INPUTS + OUTPUTS:
        name, components = _components(topic, "#/components/schemas/{name}")
        schemas |= components
        summary, _, _ = components[name]["description"].partition(". ")
        message = {
            "name": name,
            "title": name,
            "summary": f"{summary}.",
            "contentType": "application/json",
            "payload": {"$ref": f"#/components/schemas/{name}"},
            "bindings": {"kafka": {"key": _key_schema(topic), "bindingVersion": _KAFKA_BINDING}},
            "examples": [{"payload": payload} for payload in EXAMPLES[topic.name]],
        }
        messages[name] = message
        channels[topic.name] = {
            "address": topic.name,
            "description": components[name]["description"],
            "messages": {name: {"$ref": f"#/components/messages/{name}"}},
            "bindings": {"kafka": {"topicConfiguration": _configuration(topic), "bindingVersion": _KAFKA_BINDING}},
        }
        action = "receive" if topic in INPUTS else "send"
        operations[f"{action}{name}"] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{topic.name}"},
            "summary": f"The workers {'read' if topic in INPUTS else 'write'} {topic.name}.",
            "messages": [{"$ref": f"#/channels/{topic.name}/messages/{name}"}],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "streams", "version": _VERSION, "description": _OVERVIEW},
        "servers": {"local": {"host": "localhost:9092", "protocol": "kafka", "description": "Your Kafka cluster."}},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def write_schemas(folder: Path) -> list[Path]:
    """Write `schemas/<topic>.json` for each public topic, and `asyncapi.yaml`, into `folder`.

    Returns:
        The files written.

    Raises:
        OSError: the folder cannot be written.
    """
    texts = {
        f"schemas/{topic.name}.json": json.dumps(json_schema(topic), indent=2) + "\n" for topic in INPUTS + OUTPUTS
    }
    texts["asyncapi.yaml"] = (
        "# Generated by `streams topics schemas`; edit streams/contract/events.py instead.\n"
        + yaml.dump(asyncapi(), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    )
    paths = []
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


class _Dumper(yaml.SafeDumper):
    """Blocks for texts of several lines; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _components(topic: Topic, ref_template: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a topic's struct, and the schemas of it and of the structs inside it."""
    assert topic.schema is not None, f"{topic.name} is internal and has no schema; this is a bug"
    _, components = msgspec.json.schema_components([topic.schema], ref_template=ref_template)
    components = deepcopy(components)
    if topic is DEAD_LETTERS:
        meanings = "; ".join(f"{code}: {meaning}" for code, meaning in REJECTION_CODES.items())
        components[topic.schema.__name__]["properties"]["code"]["description"] += f" At stage decode: {meanings}."
    return topic.schema.__name__, components


def _key_schema(topic: Topic) -> dict[str, Any]:
    if topic.key is None:
        meaning = (
            "The original record's key, of a very long one the first bytes. A tombstone is no letter: its key is the "
            "place of a replayed letter, such as dead-letters[0]@17."
        )
        return {"type": "string", "description": meaning}
    return {"type": "string", "description": f"UTF-8 text of {topic.key}."}


def _configuration(topic: Topic) -> dict[str, Any]:
    return {
        "cleanup.policy": [topic.config["cleanup.policy"]],
        "retention.ms": int(topic.config["retention.ms"]),
    }
