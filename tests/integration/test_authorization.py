"""A cluster that allows a worker what it needs and nothing else, or not even that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewPartitions,
)
from confluent_kafka.admin import ResourcePatternType as Pattern
from confluent_kafka.admin import ResourceType as Kind

from streams.contract.topics import DEAD_LETTERS, DECISIONS, INPUTS, LABELS, OUTPUTS, TRANSACTIONS
from tests.support.secured_kafka import LIMITED_PASSWORD, LIMITED_USER, SecuredKafka, secured_kafka
from tests.support.traffic import payments
from tests.support.workers import Bench, WorkerProcess, delete_topics

pytestmark = pytest.mark.kafka

PAYMENTS = 200
GROUP, OWN = "{application_id}", "{application_id}-"
Permission = tuple[Kind, str, Pattern, AclOperation]


def needed(application_id: str) -> list[Permission]:
    """Return what config/README.md names."""
    group, own = (name.format(application_id=application_id) for name in (GROUP, OWN))
    return [
        *[(Kind.TOPIC, topic.name, Pattern.LITERAL, AclOperation.READ) for topic in INPUTS],
        *[(Kind.TOPIC, topic.name, Pattern.LITERAL, AclOperation.WRITE) for topic in OUTPUTS],
        (Kind.TOPIC, own, Pattern.PREFIXED, AclOperation.CREATE),
        (Kind.TOPIC, own, Pattern.PREFIXED, AclOperation.READ),
        (Kind.TOPIC, own, Pattern.PREFIXED, AclOperation.WRITE),
        (Kind.TOPIC, own, Pattern.PREFIXED, AclOperation.ALTER),
        (Kind.TOPIC, own, Pattern.PREFIXED, AclOperation.DESCRIBE_CONFIGS),
        (Kind.GROUP, group, Pattern.LITERAL, AclOperation.READ),
        (Kind.TRANSACTIONAL_ID, own, Pattern.PREFIXED, AclOperation.WRITE),
    ]


class LimitedBench(Bench):
    """Its own clients may do everything, its workers what they are allowed."""

    def __init__(self, kafka: SecuredKafka, folder: Path, application_id: str) -> None:
        super().__init__(kafka.address, folder, application_id, checkpoint_interval_s=1, **kafka.settings)
        self._admin = AdminClient(self.client)

    def permission(self, kind: Kind, name: str, operation: AclOperation) -> Permission:
        name = name.format(application_id=self.application_id)
        (found,) = [each for each in needed(self.application_id) if (*each[:2], each[3]) == (kind, name, operation)]
        return found

    def allow(self, *permissions: Permission) -> None:
        acls = [
            AclBinding(kind, name, pattern, f"User:{LIMITED_USER}", "*", operation, AclPermissionType.ALLOW)
            for kind, name, pattern, operation in permissions
        ]
        for future in self._admin.create_acls(acls).values():
            future.result(30)

    def take_back(self, permission: Permission) -> None:
        kind, name, pattern, operation = permission
        self._delete(AclBindingFilter(kind, name, pattern, None, None, operation, AclPermissionType.ANY))

    def _delete(self, which: AclBindingFilter) -> None:
        for future in self._admin.delete_acls([which]).values():
            assert future.result(30)

    def start_limited(self) -> WorkerProcess:
        return self.start(0, sasl_username=LIMITED_USER, sasl_password=LIMITED_PASSWORD)

    def produce_payments(self, seed: int) -> None:
        records, labels = payments(PAYMENTS, seed=seed)
        self.produce_json(LABELS.name, "card_id", labels)
        self.produce_json(TRANSACTIONS.name, "card_id", records)
        self.produce(TRANSACTIONS.name, [b"no payment"], [b"c1"])

    def grow(self, topic: str, count: int) -> None:
        self._admin.create_partitions([NewPartitions(topic, count)])[topic].result(30)

    def clear(self) -> None:
        """Take every permission back and delete all topics."""
        self._delete(AclBindingFilter(Kind.ANY, None, Pattern.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY))
        delete_topics(self.client)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with secured_kafka(tmp_path_factory.mktemp("authorizer"), "SASL_PLAINTEXT", authorizer=True) as kafka:
        yield kafka


@pytest.fixture
def bench(kafka: SecuredKafka, tmp_path: Path) -> Iterator[LimitedBench]:
    """Fresh topics, an application of its own, and nothing allowed yet."""
    bench = LimitedBench(kafka, tmp_path, tmp_path.name)
    bench.create_topics()
    try:
        yield bench
    finally:
        bench.close()
        bench.clear()


def test_what_the_readme_names_is_enough(bench: LimitedBench) -> None:
    """First start, decisions, dead letters, checkpoints; a kill, so that the next worker fences the first; a stop; growth."""
    bench.allow(*needed(bench.application_id))
    worker = bench.start_limited().wait_until_ready()
    bench.produce_payments(seed=1)
    bench.wait_for(DECISIONS.name, PAYMENTS)
    bench.wait_for(f"{bench.application_id}-card-state", 1)
    worker.kill()
    worker = bench.start_limited().wait_until_ready()
    bench.produce_payments(seed=2)
    bench.wait_for(DECISIONS.name, 2 * PAYMENTS)
    worker.stop()
    assert bench.count(DEAD_LETTERS.name) == 2
    bench.grow(TRANSACTIONS.name, 5)
    bench.start_limited().wait_until_ready()


@pytest.mark.parametrize(
    ("kind", "name", "operation", "because"),
    [
        (
            Kind.TOPIC,
            LABELS.name,
            AclOperation.READ,
            "topic transaction-labels is missing, or this user may not see it",
        ),
        (
            Kind.TOPIC,
            DECISIONS.name,
            AclOperation.WRITE,
            "topic fraud-decisions is missing, or this user may not see it",
        ),
        (Kind.TOPIC, OWN, AclOperation.CREATE, "-card-state: expected 4 partitions, .* or allow this user to"),
        (Kind.GROUP, GROUP, AclOperation.READ, "GroupAuthorizationFailed"),
        (Kind.TRANSACTIONAL_ID, OWN, AclOperation.WRITE, "TransactionalIdAuthorizationFailed"),
    ],
    ids=["label", "decide", "create", "group", "transact"],
)
def test_without_a_permission_no_worker_starts(
    bench: LimitedBench, kind: Kind, name: str, operation: AclOperation, because: str
) -> None:
    """Its last line names what it is about."""
    bench.allow(*[each for each in needed(bench.application_id) if each != bench.permission(kind, name, operation)])
    last = bench.start_limited().wait_until_refused()
    assert re.search(f"^streams: KafkaUnavailable: .*{because}", last), last


@pytest.mark.parametrize(
    ("kind", "name", "operation", "because"),
    [
        (Kind.TOPIC, TRANSACTIONS.name, AclOperation.READ, "input cannot be read: .* transactions"),
        (Kind.TOPIC, DECISIONS.name, AclOperation.WRITE, "fraud-decisions.* Topic authorization failed"),
        (Kind.TOPIC, OWN, AclOperation.WRITE, r"-card-state\[\d\]: .* Topic authorization failed.*; see Security"),
        (Kind.TRANSACTIONAL_ID, OWN, AclOperation.WRITE, "Transactional ?Id ?[aA]uthorization ?[fF]ailed"),
    ],
    ids=["read", "decide", "checkpoint", "transact"],
)
def test_a_permission_taken_back_ends_the_worker(
    bench: LimitedBench, kind: Kind, name: str, operation: AclOperation, because: str
) -> None:
    """In one line that says why; once it is given again, the next worker decides what waited, and nothing twice."""
    permissions = needed(bench.application_id)
    seen = {(kind, each, how, AclOperation.DESCRIBE) for kind, each, how, _ in permissions if kind is Kind.TOPIC}
    bench.allow(*permissions, *seen)
    worker = bench.start_limited().wait_until_ready()
    bench.produce_payments(seed=1)
    bench.wait_for(DECISIONS.name, PAYMENTS)
    bench.take_back(bench.permission(kind, name, operation))
    bench.produce_payments(seed=2)
    last = worker.wait_until_refused()
    bench.workers.remove(worker)
    assert re.search(f"^streams: (KafkaUnavailable|DeliveryFailed|NotAllowed): .*{because}", last), last
    bench.allow(bench.permission(kind, name, operation))
    worker = bench.start_limited().wait_until_ready()
    bench.wait_for(DECISIONS.name, 2 * PAYMENTS)
    worker.stop()
    assert bench.count(DECISIONS.name) == 2 * PAYMENTS
