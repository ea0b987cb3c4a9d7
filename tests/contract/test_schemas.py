"""What producers and consumers are told about the events is what the code does."""

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
import yaml
from hypothesis import given, settings
from jsonschema import Draft202012Validator, ValidationError

from streams.contract.columns import Limits
from streams.contract.decoding import decode_clicks, decode_labels, decode_transactions
from streams.contract.diagnosis import REJECTION_CODES
from streams.contract.documents import EXAMPLES, asyncapi, json_schema, write_schemas
from streams.contract.encoding import Made, ModelName, Timing, encode_decisions, encode_recommendations
from streams.contract.events import AMOUNT_MAX, EVENT_TIME_MS_MAX, EVENT_TIME_MS_MIN, Decision, Reason, Recommendation
from streams.contract.topics import (
    CLICKSTREAM,
    DECISIONS,
    INPUTS,
    LABELS,
    OUTPUTS,
    RECOMMENDATIONS,
    TRANSACTIONS,
    Topic,
)
from streams.settings import Settings

CONFIG = Path(__file__).parents[2] / "config"
PUBLIC = INPUTS + OUTPUTS
NOW_MS = 1_712_345_678_901
MODEL = ModelName("fraud", "0f" * 32)
TIMING = Timing(decided_at=NOW_MS, queue_ms=1.25, inference_ms=2.5)
MADE = Made(MODEL, TIMING)
DECODERS: dict[str, Callable[..., Any]] = {
    TRANSACTIONS.name: decode_transactions,
    CLICKSTREAM.name: decode_clicks,
    LABELS.name: decode_labels,
}


def by_name(topic: Topic) -> str:
    return topic.name


def validator(topic: Topic) -> Draft202012Validator:
    return Draft202012Validator(json_schema(topic), format_checker=Draft202012Validator.FORMAT_CHECKER)


def accepts(topic: Topic, payload: Any, now_ms: int = NOW_MS) -> bool:
    decoded = DECODERS[topic.name]([json.dumps(payload).encode()], now_ms=now_ms, limits=Limits())
    return bool(decoded.accepted.size)


def test_committed_schemas_are_current(tmp_path: Path) -> None:
    """The files in config/ are what `streams topics schemas config` writes, and no other file lies beside them."""
    written = {path.relative_to(tmp_path): path.read_text() for path in write_schemas(tmp_path)}
    committed = [*(CONFIG / "schemas").iterdir(), CONFIG / "asyncapi.yaml"]
    assert {path.relative_to(CONFIG): path.read_text() for path in committed} == written, (
        "config/ is stale; run `streams topics schemas config` and commit"
    )


@pytest.mark.parametrize("topic", PUBLIC, ids=by_name)
def test_schema_is_valid_json_schema_with_the_key_required(topic: Topic) -> None:
    """Each schema is a schema; the field that is the Kafka key must be present."""
    schema = json_schema(topic)
    Draft202012Validator.check_schema(schema)
    assert topic.key is None or topic.key in schema["required"]


@pytest.mark.parametrize("topic", PUBLIC, ids=by_name)
def test_examples_obey_their_schema(topic: Topic) -> None:
    """Each topic has an example, valid by the schema; the first shows every field that is not a special case."""
    for example in EXAMPLES[topic.name]:
        validator(topic).validate(example)
    shown = EXAMPLES[topic.name][0].keys()
    of_letters = {"key_base64", "key_bytes", "key_sha256", "value_bytes", "value_sha256"}
    assert json_schema(topic)["properties"].keys() - shown <= of_letters | {"strategy", "degraded"}


@pytest.mark.parametrize("topic", INPUTS, ids=by_name)
def test_input_examples_are_accepted_by_the_decoder(topic: Topic) -> None:
    """Who copies an example gets a decision."""
    assert all(accepts(topic, example) for example in EXAMPLES[topic.name])


@pytest.mark.parametrize("topic", OUTPUTS, ids=by_name)
def test_output_examples_are_read_by_their_struct(topic: Topic) -> None:
    """An output example survives its struct unchanged."""
    for example in EXAMPLES[topic.name]:
        event = msgspec.json.decode(json.dumps(example), type=topic.schema)
        assert msgspec.to_builtins(event) == example


# Where JSON Schema and the decoder may differ is left out: 5.0, an integer to the one only, and text times before 2000.
fields = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
    | st.text(max_size=4)
    | st.sampled_from(["", "x" * 64, "x" * 65, "x" * 128, "x" * 129, "view", "cart", "purchase", [], {}, ["view"]])
    | st.sampled_from(["2024-04-05T19:34:38Z", "2024-04-05T19:34:38", "2024-04-05", "2024-13-05T19:34:38Z"])
    | st.sampled_from([0, int(AMOUNT_MAX), int(AMOUNT_MAX) + 1])
    | st.sampled_from([EVENT_TIME_MS_MIN, EVENT_TIME_MS_MIN - 1, EVENT_TIME_MS_MAX, EVENT_TIME_MS_MAX + 1])
)


@pytest.mark.parametrize("topic", INPUTS, ids=by_name)
@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_decoder_accepts_exactly_what_the_schema_allows(topic: Topic, data: st.DataObject) -> None:
    """With any value or absence of any field, workers accept exactly the records that the schema accepts."""
    example = EXAMPLES[topic.name][0]
    changed = data.draw(st.dictionaries(st.sampled_from([*example, "unheard_of"]), fields, max_size=2))
    dropped = data.draw(st.sets(st.sampled_from(list(example)), max_size=1))
    payload = {name: value for name, value in (example | changed).items() if name not in dropped}
    assert accepts(topic, payload, now_ms=EVENT_TIME_MS_MAX) == validator(topic).is_valid(payload)


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def resolve(document: Any, reference: str) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


def test_asyncapi_document_is_read_back_whole_and_every_reference_leads_somewhere() -> None:
    """The YAML says what the code says, and refers to nothing that it lacks."""
    document = yaml.safe_load((CONFIG / "asyncapi.yaml").read_text())
    assert document == asyncapi()
    found = list(references(document))
    assert found
    assert all(resolve(document, reference) for reference in found)


def test_asyncapi_document_describes_every_public_topic_with_examples_that_validate() -> None:
    """Each topic is a channel with one message; inputs are received, outputs sent; examples obey the payload."""
    document = asyncapi()
    assert list(document["channels"]) == [topic.name for topic in PUBLIC]
    actions = {operation["channel"]["$ref"]: operation["action"] for operation in document["operations"].values()}
    for topic in PUBLIC:
        assert actions[f"#/channels/{topic.name}"] == ("receive" if topic in INPUTS else "send")
        (message,) = (
            resolve(document, message["$ref"]) for message in document["channels"][topic.name]["messages"].values()
        )
        payload = Draft202012Validator({**document, **message["payload"]})
        assert message["examples"]
        for example in message["examples"]:
            payload.validate(example["payload"])
        with pytest.raises(ValidationError, match="is not of type 'object'"):
            payload.validate("no object")


def test_dead_letter_schema_lists_every_code_of_decoding() -> None:
    """A consumer of dead letters finds each code with its meaning."""
    description = json_schema(OUTPUTS[-1])["properties"]["code"]["description"]
    assert all(f"{code}: {meaning}" in description for code, meaning in REJECTION_CODES.items())


def test_default_limits_are_the_settings_defaults() -> None:
    """A caller that decodes without settings decodes as a worker with default settings."""
    settings = Settings()
    assert Limits() == Limits(settings.record_bytes_max, settings.event_time_ahead_s_max * 1000)


def test_published_decision_obeys_its_schema() -> None:
    """What the publisher encodes is what consumers are told."""
    columns = decode_transactions([json.dumps(EXAMPLES["transactions"][0]).encode()], now_ms=NOW_MS, limits=Limits())
    reasons = [[Reason("amount", 0.4)]]
    (value,) = encode_decisions(
        columns, MADE, scores=[0.93], decisions=["decline"], confidences=[0.93], reasons=reasons
    )
    validator(DECISIONS).validate(json.loads(value))
    decision = msgspec.json.decode(value, type=Decision, strict=True)
    assert (decision.transaction_id, decision.decision, decision.model_version) == (
        columns.transaction_ids[0],
        "decline",
        MODEL.version,
    )
    assert json.loads(value).keys() == set(json_schema(DECISIONS)["required"])


def test_published_degraded_decision_obeys_its_schema() -> None:
    """It says what decided and which model it stands in for, and has no score."""
    columns = decode_transactions([json.dumps(EXAMPLES["transactions"][0]).encode()], now_ms=NOW_MS, limits=Limits())
    reasons = [[Reason("night_amount", None, 612.5, 500.0)]]
    (value,) = encode_decisions(
        columns,
        Made(MODEL, TIMING, degraded=True),
        scores=[None],
        decisions=["review"],
        confidences=[None],
        reasons=reasons,
    )
    validator(DECISIONS).validate(json.loads(value))
    decision = msgspec.json.decode(value, type=Decision, strict=True)
    assert (decision.strategy, decision.degraded, decision.score, decision.confidence) == ("rules", True, None, None)
    assert (decision.model_version, decision.reasons[0].value) == (MODEL.version, 612.5)
    assert json.loads(value).keys() == json_schema(DECISIONS)["properties"].keys()
    with pytest.raises(ValueError, match="expected columns of 1 rows, got one of 0"):
        encode_decisions(columns, MADE, scores=[], decisions=["decline"], confidences=[0.93], reasons=reasons)


def test_encoding_holds_on_to_nothing() -> None:
    """A worker encodes for months: what went into an answer is free once it is encoded."""
    columns = decode_transactions([json.dumps(EXAMPLES["transactions"][0]).encode()], now_ms=NOW_MS, limits=Limits())
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(1_000):
        encode_decisions(
            columns, MADE, scores=[0.93], decisions=["decline"], confidences=[0.93], reasons=[[Reason("amount", 0.4)]]
        )
    gc.collect()
    assert len(gc.get_objects()) < before + 500


def test_published_recommendation_obeys_its_schema() -> None:
    """What the publisher encodes is what consumers are told."""
    columns = decode_clicks([json.dumps(EXAMPLES["clickstream"][0]).encode()], now_ms=NOW_MS, limits=Limits())
    (value,) = encode_recommendations(
        columns, MADE, item_ids=[["a", "b"]], scores=[[0.25, 0.125]], strategies=["sequence"]
    )
    validator(RECOMMENDATIONS).validate(json.loads(value))
    recommendation = msgspec.json.decode(value, type=Recommendation, strict=True)
    assert [item.item_id for item in recommendation.items] == ["a", "b"]
    assert json.loads(value).keys() == set(json_schema(RECOMMENDATIONS)["required"])
    (value,) = encode_recommendations(
        columns, Made(MODEL, TIMING, degraded=True), item_ids=[["a"]], scores=[[0.25]], strategies=["popular"]
    )
    validator(RECOMMENDATIONS).validate(json.loads(value))
    assert msgspec.json.decode(value, type=Recommendation, strict=True).degraded
