"""One exception tree. The sentence of each error names place, expected, got, and the consequence or remedy."""


class StreamsError(Exception):
    """Base of all errors that this package raises on purpose."""


class SettingsError(StreamsError):
    """A setting, a combination of settings, or a rule, that cannot work."""


class KafkaUnavailable(StreamsError):
    """The cluster does not answer, refuses the client, or lacks a topic."""


class TopicChanged(StreamsError):
    """An input topic was given more partitions while the worker ran."""


class DeliveryFailed(StreamsError):
    """The broker did not confirm an output. Its input's offset is never committed."""


class NotAllowed(StreamsError):
    """The cluster denies this user an operation that the program needs: a retry changes nothing."""


class ClientHangs(DeliveryFailed):
    """A Kafka client does not return from a call: the process must end without closing it."""


class OutOfOrder(StreamsError):
    """Batches of a partition are not contiguous: going on would lose or repeat records."""


class ModelFailed(StreamsError):
    """The model raises, or scores no number, for every record."""


class Standstill(StreamsError):
    """A partition has records waiting and makes no progress."""


class StateCorrupt(StreamsError):
    """A checkpoint or a snapshot cannot be read, or was written by another version."""
