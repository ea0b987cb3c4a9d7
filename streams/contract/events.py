"""Typed events of every public topic: the one source of validation, JSON Schema and AsyncAPI.

Unknown extra fields pass. Identifiers are text; a JSON integer is accepted and read as its decimal text, so `7` and
`"7"` name the same card.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final, Literal, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct

ID_CHARS_MAX: Final = 128
EVENT_TIME_MS_MIN: Final = 946_684_800_000  # 2000-01-01: seconds, or days, sent as milliseconds fall before it
EVENT_TIME_MS_MAX: Final = 253_402_300_799_999  # 9999-12-31, the last instant that RFC 3339 can write
AMOUNT_MAX: Final = 1e12  # a payment above it, in any currency, is an error of units
# A dead letter always fits the 1,000,000 bytes that producers and topics take as they come: base64 of the value is at
# most 873,816, the key stands in it twice, once of them with 6 bytes for 1 (an escape), the message takes up to 3,072.
LETTER_VALUE_BYTES_MAX: Final = 640 * 1024
LETTER_KEY_BYTES_MAX: Final = 4 * 1024
LETTER_MESSAGE_CHARS_MAX: Final = 512
# Header of a record that is sent again because the model failed for it: the place of the failed record, such as
# transactions[3]@48213. Its id is remembered since; with the header the record is decided, once for each such place.
FAILED_AT: Final = "failed-at"
Headers = Sequence[tuple[str, bytes | None]] | None  # of one record; without headers clients give () or None

_IdText = Annotated[str, Meta(min_length=1, max_length=ID_CHARS_MAX)]
_IdInteger = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Id = _IdText | _IdInteger
Label = Annotated[str, Meta(min_length=1, max_length=64)]
Epoch = Annotated[int, Meta(ge=EVENT_TIME_MS_MIN, le=EVENT_TIME_MS_MAX)]
InputTime = Annotated[
    Epoch | Annotated[datetime, Meta(tz=True)],
    Meta(
        description="When it happened: integer milliseconds since the epoch, or RFC 3339 text with an offset.",
        examples=[1712345678901, "2024-04-05T19:34:38.901Z"],
    ),
]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Duration = Annotated[float, Meta(ge=0.0, description="Milliseconds.")]
Digest = Annotated[str, Meta(min_length=64, max_length=64, description="SHA-256 of the model's artifact, in hex.")]
_Sha256 = Annotated[str, Meta(min_length=64, max_length=64, pattern="^[0-9a-f]*$")]
_Length = Annotated[int, Meta(ge=0)]
OutputTime = Annotated[int, Meta(description="Milliseconds since the epoch.")]


class Transaction(Struct, frozen=True, gc=False):
    """A card payment to be decided. Kafka key: card_id."""

    transaction_id: Annotated[
        Id, Meta(description="Unique under its key; a repeat is not decided again.", examples=["tx-1"])
    ]
    event_time: InputTime
    card_id: Annotated[Id, Meta(description="Also the Kafka key, as UTF-8 text.", examples=["card-42"])]
    terminal_id: Annotated[Id, Meta(examples=["terminal-7"])]
    amount: Annotated[float, Meta(ge=0.0, le=AMOUNT_MAX, description="Whole units of the currency.", examples=[57.16])]
    currency: Annotated[str, Meta(min_length=3, max_length=3, description="ISO 4217 code.")] | None = None
    user_id: Id | None = None
    channel: Label | None = None
    merchant_id: Id | None = None
    country: Label | None = None


class Click(Struct, frozen=True, gc=False):
    """A step of a shopper's session. Kafka key: session_id."""

    event_id: Annotated[
        Id, Meta(description="Unique under its key; a repeat is not decided again.", examples=["click-1"])
    ]
    event_time: InputTime
    session_id: Annotated[Id, Meta(description="Also the Kafka key, as UTF-8 text.", examples=["session-9"])]
    item_id: Annotated[Id, Meta(examples=["item-1203"])]
    event_type: Annotated[Literal["view", "cart", "purchase"], Meta(examples=["view"])]
    user_id: Id | None = None


class TransactionLabel(Struct, frozen=True, gc=False):
    """The outcome of a payment, known days later (chargeback, review). Kafka key: card_id."""

    transaction_id: Annotated[Id, Meta(examples=["tx-1"])]
    event_time: Annotated[InputTime, Meta(description="The payment's time, not the label's.")]
    card_id: Annotated[Id, Meta(description="Also the Kafka key, as UTF-8 text.", examples=["card-42"])]
    terminal_id: Annotated[Id, Meta(examples=["terminal-7"])]
    is_fraud: bool


# Input fields with a list of allowed texts: our messages name the list, msgspec's do not.
LISTED: Final[dict[str, tuple[str, ...]]] = {
    name: get_args(hint)
    for event in (Transaction, Click, TransactionLabel)
    for name, hint in get_type_hints(event).items()
    if get_origin(hint) is Literal
}


class Timings(Struct, frozen=True, gc=False):
    """Where a decision's time went inside the worker."""

    queue_ms: Duration
    inference_ms: Duration


_Degraded = Annotated[
    bool,
    Meta(
        description="True where a stand-in answered for a failing model, which model and model_version name. "
        "Absent otherwise."
    ),
]


class Reason(Struct, frozen=True, gc=False, omit_defaults=True):
    """One share of a score; in a degraded decision, one rule."""

    feature: Annotated[str, Meta(description="Features that a share is of; in a degraded decision, the rule.")]
    contribution: Annotated[
        float | None, Meta(description="Log-odds; positive speaks for fraud. null in a degraded decision.")
    ]
    value: Annotated[float | None, Meta(description="In a degraded decision: the figure that the rule compares.")] = (
        None
    )
    limit: Annotated[
        float | None, Meta(description="In a degraded decision: the figure from which the rule reviews.")
    ] = None


class Decision(Struct, frozen=True, omit_defaults=True):
    """The answer to one transaction. Kafka key: card_id."""

    decision_id: Annotated[str, Meta(description="A function of transaction_id and model_version: drop repeats by it.")]
    transaction_id: str
    card_id: str
    terminal_id: str
    amount: float
    event_time: OutputTime
    score: Annotated[
        Probability | None, Meta(description="Calibrated probability of fraud; null in a degraded decision.")
    ]
    decision: Annotated[
        Literal["approve", "review", "decline"], Meta(description="A degraded decision is never decline.")
    ]
    confidence: Annotated[
        Probability | None,
        Meta(description="Probability of the likelier class, fraud or not; null in a degraded decision."),
    ]
    reasons: Annotated[
        list[Reason],
        Meta(
            description=(
                "Empty when approved; else baseline, the groups of features with the largest shares, and other, the rest of "
                "the sum; in a degraded decision, the rules that fired."
            )
        ),
    ]
    model: str
    model_version: Digest
    decided_at: OutputTime
    timings: Timings
    strategy: Annotated[Literal["model", "rules"], Meta(description="rules in a degraded decision.")] = "model"
    degraded: _Degraded = False


class RankedItem(Struct, frozen=True, gc=False):
    """One recommended item."""

    item_id: str
    score: Annotated[
        float,
        Meta(
            description="Probability of the next click; by strategy popular, the item's share of the training's clicks."
        ),
    ]


class Recommendation(Struct, frozen=True, omit_defaults=True):
    """The items offered after one click, best first. Kafka key: session_id."""

    decision_id: Annotated[str, Meta(description="A function of event_id and model_version: drop repeats by it.")]
    event_id: str
    session_id: str
    items: list[RankedItem]
    strategy: Annotated[
        Literal["sequence", "neighbours", "popular"], Meta(description="popular in a degraded recommendation.")
    ]
    confidence: Annotated[Probability, Meta(description="Sum of the items' scores.")]
    model: str
    model_version: Digest
    event_time: OutputTime
    decided_at: OutputTime
    timings: Timings
    degraded: _Degraded = False


class DeadLetter(Struct, frozen=True, gc=False, omit_defaults=True):
    """A record that could not be decided: its origin, and its bytes as far as they fit. Kafka key: the original key."""

    topic: str
    partition: Annotated[int, Meta(ge=0)]
    offset: Annotated[int, Meta(ge=0)]
    key: Annotated[
        str | None,
        Meta(
            description=f"The original key (its first {LETTER_KEY_BYTES_MAX} bytes) as text; null when absent or not UTF-8."
        ),
    ]
    value_base64: Annotated[
        str | None,
        Meta(
            description=f"The original value (its first {LETTER_VALUE_BYTES_MAX} bytes); null for a record without one."
        ),
    ]
    stage: Annotated[str, Meta(description="Where it failed: decode or inference.", examples=["decode"])]
    code: Annotated[str, Meta(description="A short word for programs.", examples=["missing-field"])]
    message: Annotated[str, Meta(description="A sentence for people: what was expected, what came.")]
    key_base64: Annotated[str | None, Meta(description="Instead of key, only when it is not UTF-8.")] = None
    key_bytes: Annotated[_Length | None, Meta(description="Length of the original key, only when it is cut.")] = None
    key_sha256: Annotated[_Sha256 | None, Meta(description="Of the original key, only when it is cut.")] = None
    value_bytes: Annotated[_Length | None, Meta(description="Length of the original value, only when it is cut.")] = (
        None
    )
    value_sha256: Annotated[_Sha256 | None, Meta(description="Of the original value, only when it is cut.")] = None

    @property
    def is_cut(self) -> bool:
        """Whether bytes of the record are missing: it cannot be sent again from this letter."""
        return self.key_bytes is not None or self.value_bytes is not None
