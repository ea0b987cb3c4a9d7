"""`streams evaluate recommender`: sessions from a file, an artifact, slates from the serving path."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from models.artifacts import Artifact, load_artifact
from models.evaluation.plots import plot_recommender
from models.evaluation.sessions import Task, read_examples, read_sessions, split
from models.progress import Progress, part_of
from models.recommender.examples import TOP_K, Examples, Int32
from models.recommender.network import Vocabulary
from models.recommender.runner import PARTS, RecommenderRunner
from models.training.recommender import train_sessions
from models.training.reproducible import reproducible, versions
from streams.contract.topics import CLICKSTREAM, RECOMMENDATIONS
from streams.judging.answers import AnswersIncomplete, answers
from streams.judging.fraud import identifiers
from streams.replaying.event_files import Slice

BLEND: Final = "blend"
KAFKA: Final = "blend, through Kafka"
# 2024-01-01. A click a millisecond: sessions hold for a day of silence, so 86 million clicks may lie between two of one.
FIRST_CLICK_MS: Final = 1_704_067_200_000
CLICKS_MAX: Final = 80_000_000
SLICE_EXAMPLES: Final = 4_096
TRAINED: Final = 0.7
RANKED: Final = 0.9


class _Item(msgspec.Struct, gc=False):
    item_id: str


class _Slate(msgspec.Struct, gc=False):
    event_id: str
    items: list[_Item]


class RecommenderEvaluation:
    """Sessions to train on, examples to judge, and the slates of a recommender.

    Args:
        train_file: sessions; None where an artifact is judged.
        test_file: examples; None takes the newest tenth of the sessions, which are then not trained on.
        examples: judge the first so many; None judges all.

    Raises:
        EvaluationError: a file has another form than expected, or no example is left.
    """

    def __init__(self, train_file: Path | None, test_file: Path | None, examples: int | None) -> None:
        self._sessions = None if train_file is None else read_sessions(train_file)
        if test_file is not None:
            self._examples = read_examples(test_file)
        else:
            assert self._sessions is not None, "the command line refuses it"
            self._sessions, self._examples = split(self._sessions)
        if examples is not None:
            self._examples = self._examples.first(examples)
        self._ids: list[list[str]] = []

    def run(
        self, artifact: Path | None, output: Path | None, seed: int, through_kafka: bool, tell: Progress
    ) -> dict[str, Any]:
        """Train or load, rank and judge; return the report that `table` prints and --json holds.

        Raises:
            ArtifactError: the artifact is of another kind, damaged or missing.
            TrainingDataError: the sessions cannot train a model.
            StreamsError: the run through Kafka failed.
        """
        with tempfile.TemporaryDirectory(prefix="streams-evaluate-") as temporary:
            if artifact is not None:
                judged = load_artifact(artifact)
            else:
                assert self._sessions is not None
                judged = train_sessions(
                    output or Path(temporary),
                    self._sessions.items,
                    self._sessions.offsets,
                    seed=seed,
                    progress=part_of(tell, 0.0, TRAINED),
                )
            with reproducible(seed):
                return self._judge(judged, through_kafka, tell)

    def table(self, report: Mapping[str, Any]) -> str:
        """Return the report as text: a row for each part."""
        width = max(map(len, report["parts"]))
        lines = [
            f"{report['model']} {report['model_version']:.12}: {report['examples']:,} examples, {report['unknown_targets']:,} "
            f"of their targets unknown to the model (misses), {report['items']:,} items",
            f"{'part':<{width + 2}}{'P@20 %':>8}{'MRR@20 %':>10}{'coverage %':>12}{'popularity':>12}",
        ]
        for part, metrics in report["parts"].items():
            lines.append(
                f"{part:<{width + 2}}{100 * metrics['p_at_20']:>8.2f}{100 * metrics['mrr_at_20']:>10.2f}"
                f"{100 * metrics['coverage_at_20']:>12.2f}{metrics['popularity_at_20']:>12.3f}"
            )
        lines.append(f"{'targets':<{width + 2}}{'':>30}{report['target_popularity']:>12.3f}")
        if "kafka_slates_different" in report:
            lines.append(
                f"slates through Kafka that differ: {report['kafka_slates_different']:,} of {report['examples']:,}"
            )
        return "\n".join(lines)

    def write_predictions(self, path: Path) -> None:
        """Write a row for each example: its number and its items, best first."""
        flat = identifiers([item for slate in self._ids for item in slate])
        ends = np.cumsum([0, *map(len, self._ids)])
        items = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat)
        numbers = pa.array(np.arange(len(self._ids), dtype=np.int64))
        pyarrow.parquet.write_table(pa.table({"example": numbers, "items": items}), path)

    @staticmethod
    def plot(folder: Path, report: Mapping[str, Any]) -> None:
        """Write the pictures."""
        parts = {name: metrics for name, metrics in report["parts"].items() if name != KAFKA}
        plot_recommender(folder, parts, report["target_popularity"])

    @staticmethod
    def check_kafka(report: Mapping[str, Any]) -> None:
        """Raise AnswersIncomplete where a slate through Kafka is another than the one computed here."""
        if report.get("kafka_slates_different"):
            raise AnswersIncomplete(
                f"recommendations: expected the slates computed from the same clicks here, got "
                f"{report['kafka_slates_different']:,} others; this is a bug of the worker's sessions"
            )

    def _judge(self, artifact: Artifact, through_kafka: bool, tell: Progress) -> dict[str, Any]:
        runner = RecommenderRunner(artifact, device="cpu")
        vocabulary = Vocabulary.from_artifact(artifact)
        task = Task.of(self._examples, runner, vocabulary)
        metrics: dict[str, dict[str, float]] = {}
        shown: dict[str, Int32] = {}
        for number, part in enumerate(reversed(PARTS)):
            step = (RANKED - TRAINED) / len(PARTS)
            shown[part] = task.rank(runner, part, part_of(tell, TRAINED + step * number, TRAINED + step * (number + 1)))
            metrics[part] = task.judge(shown[part])
        self._ids = [[vocabulary.ids[item] for item in slate if item >= 0] for slate in shown[BLEND].tolist()]
        report: dict[str, Any] = {
            "model": artifact.name,
            "model_version": artifact.version,
            "items": runner.items,
            "examples": len(self._examples),
            "unknown_targets": int((task.targets < 0).sum()),
            "target_popularity": task.target_popularity(),
            "parts": metrics,
            "versions": versions(),
        }
        if through_kafka:
            slates = self._slates(artifact, part_of(tell, RANKED, 1.0))
            index = np.full((len(slates), TOP_K), -1, np.int32)
            for row, slate in enumerate(slates):
                index[row, : len(slate)] = runner.item_index(slate)
            metrics[KAFKA] = task.judge(index)
            report["kafka_slates_different"] = sum(a != b for a, b in zip(slates, self._ids, strict=True))
        return report

    def _slates(self, artifact: Artifact, tell: Progress) -> list[list[str]]:
        """Return the item ids that a worker recommends after the last click of each example."""
        lengths = self._examples.end - self._examples.begin
        clicks = int(lengths.sum())
        if clicks > CLICKS_MAX:
            raise AnswersIncomplete(
                f"--through-kafka: expected at most {CLICKS_MAX:,} clicks, got {clicks:,}; judge fewer with --examples"
            )
        slates: list[list[str] | None] = [None] * len(lengths)
        seen: set[str] = set()
        decode = msgspec.json.Decoder(_Slate).decode
        last = (lengths - 1).tolist()

        def receive(values: list[bytes]) -> None:
            for slate in map(decode, values):
                if slate.event_id in seen:
                    raise AnswersIncomplete(
                        f"recommendations: expected one slate a click, got two for {slate.event_id}"
                    )
                seen.add(slate.event_id)
                example, _, click = slate.event_id.partition("-")
                if int(click) == last[int(example)]:
                    slates[int(example)] = [item.item_id for item in slate.items]

        answers(
            _clicks(self._examples),
            clicks,
            CLICKSTREAM,
            RECOMMENDATIONS,
            settings={
                "recommender_artifact": str(artifact.folder.absolute()),
                "seen_items": "keep",
                "new_items": "ignore",  # an example must not answer another
                "top_k": str(TOP_K),
                "device": "cpu",
            },
            receive=receive,
            tell=tell,
        )
        answered = [slate for slate in slates if slate is not None]
        if len(answered) < len(slates):
            raise AnswersIncomplete(
                f"recommendations: expected a slate after the last click of each of {len(slates):,} examples, got none for "
                f"{len(slates) - len(answered):,}"
            )
        return answered


def _clicks(examples: Examples) -> Iterator[Slice]:
    """Yield the clicks of all prefixes, each prefix a session of its own named by its number."""
    moment = FIRST_CLICK_MS
    for start in range(0, len(examples), SLICE_EXAMPLES):
        sessions: list[str] = []
        events: list[str] = []
        items: list[str] = []
        places = slice(start, start + SLICE_EXAMPLES)
        bounds = zip(examples.begin[places].tolist(), examples.end[places].tolist(), strict=True)
        for example, (begin, end) in enumerate(bounds, start=start):
            sessions += [str(example)] * (end - begin)
            events += [f"{example}-{click}" for click in range(end - begin)]
            items += map(str, examples.items[begin:end].tolist())
        event_time = np.arange(moment, moment + len(events), dtype=np.int64)
        moment += len(events)
        yield Slice(
            {
                "event_id": events,
                "event_time": event_time.tolist(),
                "session_id": sessions,
                "item_id": items,
                "event_type": ["view"] * len(events),
            },
            event_time,
        )
