"""The commands on a real Kafka: what they send, read, and leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest
from aiokafka.partitioner import murmur2
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from streams.clients.topic_reader import TopicReader
from streams.commands import main
from streams.contract.events import RankedItem, Recommendation, Timings
from streams.contract.letters import encode_dead_letter
from streams.settings import load_settings

pytestmark = pytest.mark.kafka

T0 = 1_704_067_200_000
DAY_MS = 86_400_000
PARTITIONS = 4


@pytest.fixture
def own_kafka(empty_kafka: str) -> str:
    """A broker that no other test uses meanwhile: the commands speak of the project's topics, by their names."""
    return empty_kafka


@pytest.fixture
def streams(own_kafka: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Call the command line against that broker."""
    monkeypatch.setenv("STREAMS_BOOTSTRAP_SERVERS", own_kafka)
    monkeypatch.setenv("STREAMS_CONFIG", "")

    def call(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return call


@pytest.fixture
def fresh_topics(streams: Callable[..., Result]) -> None:
    """The project's topics, empty."""
    result = streams("topics", "create")
    assert result.exit_code == 0, result.stderr
    assert "exists" not in result.output


def _records(topic: str) -> list[Any]:
    with TopicReader(load_settings(), [topic], from_beginning=True) as reader:
        return [message for batch in reader.until_end() for message in batch]


def _send(address: str, topic: str, *values: bytes, key: bytes = b"key") -> None:
    producer = Producer({"bootstrap.servers": address})
    for value in values:
        producer.produce(topic, value, key)
    assert producer.flush(10) == 0


def _payments(path: Path, count: int) -> Path:
    columns = {
        "tx": list(range(count)),
        "ts": pa.array([T0 + i * DAY_MS // 50 for i in range(count)], pa.timestamp("ms")),
        "customer": [i % 17 for i in range(count)],
        "terminal": [i % 5 for i in range(count)],
        "amount": [float(i % 100) for i in range(count)],
        "fraud": [int(i % 10 == 0) for i in range(count)],
    }
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


MAPPING = "transaction_id=tx,event_time=ts,card_id=customer,terminal_id=terminal"


def test_topics_are_created_once(streams: Callable[..., Result], fresh_topics: None) -> None:
    """Creating again does no harm, also with another number of partitions in mind: what is there is told and kept."""
    again = streams("topics", "create")
    assert again.exit_code == 0
    assert "created" not in again.output
    other = streams("topics", "create", "--partitions", 7)
    assert other.exit_code == 0
    assert "created" not in other.output and "exists   transactions             4 partitions" in other.output
    assert streams("topics", "list").exit_code == 0
    described = streams("topics", "describe", "clickstream")
    assert "partition 3" in described.output and "604800000" in described.output


def test_missing_topics_are_told_with_the_remedy(streams: Callable[..., Result]) -> None:
    """Every command that needs a topic says how to make it."""
    for arguments in (
        ("produce", "simulate", "--limit", 1),
        ("watch", "decisions", "--no-follow"),
        ("dead-letters", "list"),
        ("topics", "list"),
    ):
        result = streams(*arguments)
        assert result.exit_code == 1, arguments
        assert "streams topics create" in result.stderr


def test_silent_address_is_told_within_ten_seconds(streams: Callable[..., Result]) -> None:
    """A wrong address ends a command with one line that names it."""
    began = time.monotonic()
    result = streams("--bootstrap-servers", "127.0.0.1:1", "topics", "list")
    assert time.monotonic() - began < 13.0
    assert result.exit_code == 1
    assert "bootstrap_servers=127.0.0.1:1" in result.stderr and "refused" in result.stderr
    assert result.stderr.count("\n") == 1


def test_file_arrives_keyed_complete_and_with_labels_in_time(
    streams: Callable[..., Result], fresh_topics: None, tmp_path: Path
) -> None:
    """Each row is one record under its card's key, in order; a label is there before the payments that may know it."""
    count = 20_000
    path = _payments(tmp_path / "payments.parquet", count)
    result = streams("produce", path, "--labels", "fraud", "--columns", MAPPING)
    assert result.exit_code == 0, result.stderr
    assert "40,000 confirmed by the broker, 0 failed, 0 unknown" in result.output
    payments = [(m, orjson.loads(m.value())) for m in _records("transactions")]
    assert sorted(int(value["transaction_id"]) for _, value in payments) == list(range(count))
    assert all(m.key() == value["card_id"].encode() for m, value in payments)
    for card in range(17):
        mine = [value["event_time"] for _, value in payments if value["card_id"] == str(card)]
        assert mine == sorted(mine)
    labels = [(m, orjson.loads(m.value())) for m in _records("transaction-labels")]
    assert {v["transaction_id"]: v["is_fraud"] for _, v in labels} == {str(i): i % 10 == 0 for i in range(count)}
    times = {value["transaction_id"]: value["event_time"] for _, value in payments}
    assert all(value["event_time"] == times[value["transaction_id"]] for _, value in labels)

    # As Java and Faust would: a card's payments, its labels and its state meet in one worker.
    assert all(m.partition() == (murmur2(m.key()) & 0x7FFFFFFF) % PARTITIONS for m, _ in payments + labels)
    # 20,000 payments are sent in three slices; a label due in the first slice is older than each later payment.
    sent_at = sorted((value["event_time"], m.timestamp()[1]) for m, value in payments)
    first_slice_ends = sent_at[8191][0]
    early = [m.timestamp()[1] for m, value in labels if value["event_time"] + 7 * DAY_MS <= first_slice_ends]
    assert early
    assert max(early) <= min(stamp for _, stamp in sent_at[8192:])


def test_clicks_of_a_csv_are_sorted_and_numbered(
    streams: Callable[..., Result], fresh_topics: None, tmp_path: Path
) -> None:
    """A file grouped by session goes out by time; its rows' numbers make the ids."""
    path = tmp_path / "clicks.csv"
    path.write_text(f"Time,Session,Item\n{T0 + 5000},a,1\n{T0 + 9000},a,2\n{T0 + 1000},b,3\n")
    columns = "event_time=Time,session_id=Session,item_id=Item"
    result = streams(
        "produce", path, "--topic", "clickstream", "--columns", columns, "--constant", "event_type=view", "--rate", 1000
    )
    assert result.exit_code == 0, result.stderr
    records = sorted(_records("clickstream"), key=lambda m: (m.timestamp()[1], m.partition()))
    assert {orjson.loads(m.value())["event_id"] for m in records} == {"clicks-0", "clicks-1", "clicks-2"}
    assert orjson.loads(records[0].value()) == {
        "event_id": "clicks-2", "event_time": T0 + 1000, "session_id": "b", "item_id": "3", "event_type": "view",
    }  # fmt: skip


def test_unconfirmed_record_is_exit_code_1(streams: Callable[..., Result], fresh_topics: None, tmp_path: Path) -> None:
    """A record that Kafka refuses is counted and named; the others are confirmed."""
    path = tmp_path / "p.ndjson"
    rows = [
        {"transaction_id": str(i), "event_time": T0, "card_id": "c", "terminal_id": "t", "amount": 1} for i in range(3)
    ]
    rows[1]["card_id"] = "x" * 2_000_000
    path.write_text("\n".join(json.dumps(row) for row in rows))
    result = streams("produce", path)
    assert result.exit_code == 1
    assert "2 confirmed by the broker, 1 failed, 0 unknown" in result.output
    assert "1 of 3 records were not confirmed" in result.stderr
    assert len(_records("transactions")) == 2


def test_speedup_reached_is_printed(streams: Callable[..., Result], fresh_topics: None, tmp_path: Path) -> None:
    """The end tells what became of the speed-up, also where the machine cannot do it."""
    path = _payments(tmp_path / "payments.parquet", 200)
    for asked in ("600000", "1e12"):
        result = streams("produce", path, "--columns", MAPPING, "--speedup", asked)
        assert result.exit_code == 0
        (line,) = [line for line in result.output.splitlines() if line.startswith("200 records to transactions")]
        got = float(line.split("speed-up ")[1].split(" of ")[0].replace(",", ""))
        assert line.endswith(f" of {float(asked):,.1f}")
        assert 0 < got <= float(asked)


def test_simulated_events_reach_both_topics(streams: Callable[..., Result], fresh_topics: None) -> None:
    """The simulator feeds payments, clicks and labels; --limit counts payments and clicks."""
    result = streams("produce", "simulate", "--limit", 1001)
    assert result.exit_code == 0, result.stderr
    assert [len(_records(name)) for name in ("transactions", "clickstream", "transaction-labels")] == [501, 500, 501]


def test_interrupt_confirms_what_was_sent(streams: Callable[..., Result], fresh_topics: None, own_kafka: str) -> None:
    """Ctrl-C ends an endless replay with 130 and a true count."""
    with subprocess.Popen(
        [sys.executable, "-c", "from streams.commands import main; main()", "produce", "simulate", "--rate", "500"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "STREAMS_BOOTSTRAP_SERVERS": own_kafka},
    ) as process:
        try:
            deadline = time.monotonic() + 60.0
            while len(_records("clickstream")) < 100:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    confirmed = int(output.partition(" confirmed")[0].splitlines()[-1].replace(",", ""))
    assert confirmed == sum(len(_records(name)) for name in ("transactions", "clickstream", "transaction-labels"))
    assert "0 failed, 0 unknown" in output


def _dead_letter(offset: int, code: str, key: bytes | None, value: bytes | None) -> bytes:
    return encode_dead_letter(
        topic="transactions", partition=1, offset=offset, key=key, value=value, stage="decode", code=code, message="bad"
    )


def test_dead_letters_are_listed_and_replayed_byte_for_byte(
    streams: Callable[..., Result], fresh_topics: None, own_kafka: str
) -> None:
    """What goes back is what came: key and value, also where they are no text; a dry run sends nothing."""
    letters = [
        _dead_letter(5, "not-json", b"card-1", b'{"broken'),
        _dead_letter(6, "not-utf8", b"\xff\x00", b"\xfe\xff"),
        _dead_letter(7, "empty", None, None),
    ]
    _send(own_kafka, "dead-letters", *letters)
    listed = streams("dead-letters", "list")
    assert listed.exit_code == 0
    assert "transactions[1]@6" in listed.output and "3  dead letters" in listed.output
    assert [json.loads(line)["offset"] for line in streams("dead-letters", "list", "--json").output.splitlines()] == [
        5,
        6,
        7,
    ]
    assert streams("watch", "dead-letters", "--no-follow", "--code", "empty").output.count("\n") == 1

    dry = streams("dead-letters", "replay", "--dry-run")
    assert "3 would go back to transactions" in dry.output
    assert _records("transactions") == []
    one = streams("dead-letters", "replay", "--code", "not-utf8")
    assert "1 went back to transactions" in one.output
    (record,) = _records("transactions")
    assert (record.key(), record.value()) == (b"\xff\x00", b"\xfe\xff")
    assert record.headers() == [("replayed-from", b"dead-letters[0]@1")]
    assert streams("dead-letters", "replay", "--limit", 1).exit_code == 0
    assert "1 would go back" in streams("dead-letters", "replay", "--dry-run").output
    streams("dead-letters", "replay", "--code", "empty")
    assert {(r.key(), r.value()) for r in _records("transactions")} == {
        (b"\xff\x00", b"\xfe\xff"),
        (b"card-1", b'{"broken'),
        (None, None),
    }


def test_dead_letter_goes_back_once(streams: Callable[..., Result], fresh_topics: None, own_kafka: str) -> None:
    """A second replay sends what has failed since, not what went back before; letters and listings stay as they were."""
    letters = [_dead_letter(offset, "model-failed", b"card-1", b"%d" % offset) for offset in range(3)]
    _send(own_kafka, "dead-letters", *letters)
    assert "3 went back to transactions" in streams("dead-letters", "replay").output
    for options in ((), ("--dry-run",), ("--limit", 1)):
        again = streams("dead-letters", "replay", *options)
        assert (again.exit_code, again.stdout) == (0, "no dead letter matches that has not gone back before\n")
    _send(own_kafka, "dead-letters", _dead_letter(9, "model-failed", b"card-1", b"1"))  # one of them fails again
    assert "1 went back to transactions" in streams("dead-letters", "replay").output
    assert sorted(record.value() for record in _records("transactions")) == [b"0", b"1", b"1", b"2"]
    listed = streams("dead-letters", "list")
    assert "4  dead letters" in listed.stdout and listed.stderr == ""
    watched = streams("watch", "dead-letters", "--no-follow")
    assert watched.stdout.count("\n") == 4 and watched.stderr == ""


def test_letters_of_other_topics_stay_and_the_rest_goes_back(
    streams: Callable[..., Result], fresh_topics: None, own_kafka: str
) -> None:
    """A letter that names an output topic, or one of another project, sends nothing there and holds up no other letter."""
    letter = _dead_letter(5, "empty", b"card-1", b"")
    astray = [letter.replace(b'"transactions"', name) for name in (b'"payroll"', b'"fraud-decisions"')]
    _send(own_kafka, "dead-letters", *astray, letter)
    result = streams("dead-letters", "replay")
    assert result.exit_code == 1
    assert "1 went back to transactions" in result.stdout
    assert "2 dead letters name topics that workers do not read" in result.stderr
    assert _records("fraud-decisions") == []
    assert [record.value() for record in _records("transactions")] == [b""]


def test_records_of_others_on_dead_letters_are_counted_and_passed_over(
    streams: Callable[..., Result], fresh_topics: None, own_kafka: str
) -> None:
    """No record of another producer ends a listing or a replay; stderr gives the number of such records."""
    letter = _dead_letter(6, "empty", b"card-1", b"")
    foreign = [
        b"",
        b"hello",
        b"\xff\xfe",
        b"[1]",
        b'{"code": "empty"}',
        letter.replace(b'"value_base64":""', b'"value_base64":"x"'),
    ]
    foreign += [letter[:-1] + b',"note":"\xff"}', letter[:-1] + b',"note":' + b"[" * 5_000 + b"]" * 5_000 + b"}"]
    _send(own_kafka, "dead-letters", *foreign, letter, *foreign)
    for options in ((), ("--json",), ("--code", "empty")):
        listed = streams("dead-letters", "list", *options)
        assert listed.exit_code == 0
        assert "16 records passed over that are no dead letters, the first dead-letters[0]@0: " in listed.stderr
        assert len([line for line in listed.stdout.splitlines() if "bad" in line]) == 1
    replayed = streams("dead-letters", "replay")
    assert replayed.exit_code == 0
    assert "1 went back to transactions" in replayed.stdout and "16 records passed over" in replayed.stderr
    (record,) = _records("transactions")
    assert (record.key(), record.value()) == (b"card-1", b"")
    assert "8 records passed over" in streams("dead-letters", "list", "--limit", 1).stderr


def test_letters_that_lack_bytes_of_their_record_are_not_replayed(
    streams: Callable[..., Result], fresh_topics: None, own_kafka: str
) -> None:
    """Half a record never goes back: the others do, and one sentence says how many stayed."""
    letters = [
        _dead_letter(5, "too-large", b"card-1", b"x" * 700_000),
        _dead_letter(6, "too-large", b"card-2", b"x" * 600_000),
        _dead_letter(7, "not-json", b"\xff" * 5_000, b"x"),
    ]
    _send(own_kafka, "dead-letters", *letters)
    for options in (("--dry-run",), ()):
        result = streams("dead-letters", "replay", *options)
        assert result.exit_code == 1
        assert f"1 {'would go' if options else 'went'} back to transactions" in result.stdout
        assert "2 dead letters hold only the first bytes of their record" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    (record,) = _records("transactions")
    assert (record.key(), record.value()) == (b"card-2", b"x" * 600_000)


def _decision(name: str, score: float, decision: str, card: str = "c") -> bytes:
    return orjson.dumps(
        {
            "decision_id": f"d-{name}", "transaction_id": name, "card_id": card, "terminal_id": "t", "amount": 1.0,
            "event_time": T0, "score": score, "decision": decision, "confidence": 1.0, "reasons": [], "model": "m",
            "model_version": "0" * 64, "decided_at": T0, "timings": {"queue_ms": 0.0, "inference_ms": 0.0},
        }
    )  # fmt: skip


def test_watch_filters_and_summarises(streams: Callable[..., Result], fresh_topics: None, own_kafka: str) -> None:
    """Filters combine, --json gives the bytes back, --limit ends, and the summary takes its classes from the labels."""
    values = [_decision("a", 0.95, "decline"), _decision("b", 0.2, "approve", "x"), _decision("c", 0.6, "review")]
    _send(own_kafka, "fraud-decisions", *values, values[0])
    _send(
        own_kafka,
        "transaction-labels",
        *(
            orjson.dumps(
                {"transaction_id": t, "event_time": T0, "card_id": "c", "terminal_id": "t", "is_fraud": t == "a"}
            )
            for t in ("a", "b")
        ),
    )

    def ids(*options: object) -> list[str]:
        result = streams("watch", "decisions", "--no-follow", "--json", *options)
        assert result.exit_code == 0, result.stderr
        return [json.loads(line)["transaction_id"] for line in result.output.splitlines()]

    assert ids() == ["a", "b", "c", "a"]
    assert ids("--min-score", 0.5, "--decision", "review", "--decision", "approve") == ["c"]
    assert ids("--card", "x") == ["b"]
    assert ids("--limit", 2) == ["a", "b"]
    assert streams("watch", "decisions", "--from-beginning", "--limit", 1).output.count("\n") == 1
    summary = streams("watch", "decisions", "--summary")
    assert "3 decisions, 1 repeated, 2 labels, AUC 1.0000" in summary.output
    report = json.loads(streams("watch", "decisions", "--summary", "--json").stdout)
    assert {name: row["decisions"] for name, row in report["classes"].items()} == {
        "genuine": 1, "fraud": 1, "unlabelled": 1,
    }  # fmt: skip


def test_watch_passes_over_records_of_others(
    streams: Callable[..., Result], fresh_topics: None, own_kafka: str
) -> None:
    """A foreign producer on an output topic cannot end a watch of it; stderr gives the number of its records."""
    foreign = [b"", b"hello", b'{"a":1}', b"null", b"\xff", b"[" * 5_000]
    decision = _decision("a", 0.95, "decline")
    version, timings = "0" * 64, Timings(0.0, 0.0)
    slate = msgspec.json.encode(
        Recommendation("d-1", "e-1", "s-1", [RankedItem("i", 1.0)], "popular", 1.0, "r", version, T0, T0, timings)
    )
    letter = _dead_letter(6, "empty", b"card-1", b"")
    skipped = [decision.replace(b'"score":0.95', b'"score":2'), decision[:-1] + b',"note":"\xff"}']
    for topic, kind, good, options in (
        ("fraud-decisions", "decisions", decision, (["--card", "c"], ["--json"], ["--summary"], ["--limit", 1])),
        ("recommendations", "recommendations", slate, ([], ["--session", "s-1"], ["--json"])),
        ("dead-letters", "dead letters", letter, ([], ["--code", "empty"], ["--json"])),
    ):
        _send(own_kafka, topic, *foreign, *skipped, good)
        for option in options:
            result = streams("watch", kind.replace(" ", "-"), "--no-follow", *option)
            assert result.exit_code == 0
            assert f"{len(foreign) + len(skipped)} records passed over that are no {kind}, the first " in result.stderr
            shown = result.stdout.splitlines()
            assert "1 decisions, 0 repeated" in shown[0] if option == ["--summary"] else len(shown) == 1
    _send(own_kafka, "transaction-labels", b"hello", b'{"transaction_id":"a","is_fraud":true}')
    summary = streams("watch", "decisions", "--summary")
    assert "1 labels" in summary.stdout
    assert "1 records passed over that are no labels, the first transaction-labels[" in summary.stderr


def test_watch_follows_from_now(streams: Callable[..., Result], fresh_topics: None, own_kafka: str) -> None:
    """Without --from-beginning only what comes later is shown, as soon as it is there."""
    _send(own_kafka, "fraud-decisions", _decision("old", 0.1, "approve"))
    with subprocess.Popen(
        [sys.executable, "-u", "-c", "from streams.commands import main; main()", "watch", "decisions", "--limit", "1"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "STREAMS_BOOTSTRAP_SERVERS": own_kafka},
    ) as process:
        sent = 0
        while process.poll() is None and sent < 200:
            _send(own_kafka, "fraud-decisions", _decision(f"new-{sent}", 0.1, "approve"))
            sent += 1
            time.sleep(0.1)
        assert process.stdout is not None
        line = process.stdout.read()
    assert process.returncode == 0
    assert "new-" in line
