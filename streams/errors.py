"""One exception tree. The sentence of each error names place, expected, got, and the consequence or remedy."""


class StreamsError(Exception):
    """Base of everything this package raises on purpose."""


class SettingsError(StreamsError):
    """A setting, or a combination of settings, that cannot work."""


class KafkaUnavailable(StreamsError):
    """The cluster does not answer, refuses the client, or lacks a topic."""


class TopicChanged(StreamsError):
    """An input topic was given more partitions while the worker ran."""


class DeliveryFailed(StreamsError):
    """The broker did not confirm an output. Its input's offset is never committed."""


class NotAllowed(StreamsError):
    """The cluster does not allow this user what it has to do: trying again changes nothing."""


class ClientHangs(DeliveryFailed):
    """A Kafka client does not return from a call: the process has to end without it."""


class OutOfOrder(StreamsError):
    """Batches of a partition are not contiguous: going on would lose or repeat records."""


class ModelFailed(StreamsError):
    """The model raises, or scores no number, for every record."""


class Standstill(StreamsError):
    """A partition has records that the worker does not get done."""


class StateCorrupt(StreamsError):
    """A checkpoint or a snapshot cannot be read, or was written by another version."""
