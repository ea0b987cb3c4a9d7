"""`streams evaluate fraud`: payments from a file, an artifact for each week, scores from the serving path."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from models.artifacts import Artifact, load_artifact
from models.evaluation.baselines import BOOK_FEATURES, baseline_scores, book_features
from models.evaluation.leakage import refuse_knowledge_of
from models.evaluation.plots import plot_fraud
from models.evaluation.prequential import METRICS, Payments, Week, mean
from models.features.cards import CardHistory
from models.features.payments import PaymentFeatures, replay
from models.features.terminals import LABEL_DELAY_MS, TerminalHistory
from models.fraud.runner import FraudRunner
from models.progress import Progress, part_of
from models.training.fraud import ordered, train_until
from models.training.reproducible import reproducible, versions
from streams.contract.topics import DECISIONS, TRANSACTIONS
from streams.judging.answers import AnswersIncomplete, answers
from streams.replaying.column_files import ColumnFile, SourceError, as_list, to_number, to_text
from streams.replaying.event_files import EventFile, read_events

FIELDS: Final = ("transaction_id", "card_id", "terminal_id", "amount")
# Columns taken for a field where the file has no column of the field's name and the call maps none.
USUAL_COLUMNS: Final = {"transaction_id": "tx_id", "event_time": "ts", "card_id": "customer", "terminal_id": "terminal"}
OURS: Final = "streams"
KAFKA: Final = "streams, through Kafka"
# Rough shares of the time of features, training, baselines and Kafka, for the progress bar.
TRAINED: Final = 0.6
BASELINES_DONE: Final = 0.8

Scores = NDArray[np.floating[Any]]


class _Scored(msgspec.Struct, gc=False):
    transaction_id: str
    score: float
    model_version: str


@dataclass(frozen=True, slots=True)
class _Judged:
    """A week with the artifact that is judged on it, and the scores of all its payments."""

    week: Week
    artifact: Artifact
    scores: NDArray[np.float32]


class FraudEvaluation:
    """Payments, their test weeks, and the scores of models.

    Args:
        path: file of payments.
        first: midnight (UTC) of the first test day, ms.
        weeks: test weeks.
        columns: field -> column of the file.
        label: column of the labels, 0 or 1.
        tell: called with (stage, fraction done).

    Raises:
        SourceError: unreadable, columns missing or of a wrong type, values missing, or a transaction_id that repeats.
        EvaluationError: no fraud, or weeks that the file does not cover or that hold one class only.
    """

    def __init__(
        self, path: Path, first: int, weeks: int, columns: Mapping[str, str], label: str, tell: Progress
    ) -> None:
        tell("read payments", 0.0)
        if not path.is_file():
            raise SourceError(f"{path}: expected a file, got none")
        names = ColumnFile(path).names
        usual = {
            field: column
            for field, column in USUAL_COLUMNS.items()
            if column in names and field not in names and field not in columns
        }
        self._path, self._columns, self._label = path, {**usual, **columns}, label
        events = read_events(path, TRANSACTIONS, FIELDS, self._columns, label=label, sort=True)
        self._ids: list[str] = events.pop("transaction_id")
        self._row_of = {payment: row for row, payment in enumerate(self._ids)}
        if len(self._row_of) < len(self._ids):
            raise SourceError(
                f"{path}: transaction_id: expected a new one in each row, got {len(self._ids) - len(self._row_of):,} "
                "repeats; drop them or map another column"
            )
        self.payments = Payments(ordered(events))
        self.weeks = self.payments.weeks(first, weeks)
        self._rows = [self.payments.judged(week) for week in self.weeks]
        self._judged: list[_Judged] = []
        self._scores: dict[str, list[Scores]] = {}

    def run(
        self,
        artifact: Path | None,
        output: Path | None,
        seed: int,
        baselines: tuple[str, ...],
        book_file: Path | None,
        through_kafka: bool,
        tell: Progress,
    ) -> dict[str, Any]:
        """Train, score and judge; return the report that `table` prints and --json holds.

        Raises:
            EvaluationError: the artifact has seen payments whose labels were not known.
            TrainingDataError: the payments known before a week cannot train a model.
            StreamsError: the run through Kafka failed.
        """
        with tempfile.TemporaryDirectory(prefix="streams-evaluate-") as temporary, reproducible(seed):
            frozen = None if artifact is None else load_artifact(artifact)
            if frozen is not None:
                FraudRunner(frozen, device="cpu")  # refuses an artifact of another kind before the long work
                refuse_knowledge_of(frozen, self.weeks[0].known_until, self.payments.event_time)
            book = self._book_features(book_file, tell) if baselines else None
            tell("build features", 0.05)
            features = replay(PaymentFeatures(CardHistory(), TerminalHistory()), dict(self.payments.table))
            self._score(frozen, output or Path(temporary), features, seed, tell)
            self._scores[OURS] = [
                judged.scores[rows - self._span(judged.week).start]
                for judged, rows in zip(self._judged, self._rows, strict=True)
            ]
            for number, name in enumerate(baselines):
                tell(name, TRAINED + (BASELINES_DONE - TRAINED) * number / len(baselines))
                assert book is not None
                self._scores[name] = [
                    baseline_scores(name, book, self.payments, week, rows)
                    for week, rows in zip(self.weeks, self._rows, strict=True)
                ]
            difference = self._through_kafka(tell) if through_kafka else None
        return self._report(difference)

    def table(self, report: Mapping[str, Any]) -> str:
        """Return the report as text: a row for each week and model, then the means."""
        width = max(map(len, report["mean"]))
        lines = [
            f"{'week':<12}{'model':<{width + 2}}{'AUC':>8}{'AP':>8}{'CP@100':>8}{'ECE':>9}{'payments':>10}{'frauds':>8}"
        ]

        def row(name: str, model: str, metrics: Mapping[str, float]) -> str:
            auc, precision, cards, error = (metrics[metric] for metric in METRICS)
            return f"{name:<12}{model:<{width + 2}}{auc:>8.4f}{precision:>8.4f}{cards:>8.4f}{error:>9.5f}"

        for week in report["weeks"]:
            counts = f"{week['payments']:>10,}{week['frauds']:>8,}"
            lines += [row(week["week"], model, metrics) + counts for model, metrics in week["models"].items()]
        lines += [row("mean", model, metrics) for model, metrics in report["mean"].items()]
        if "kafka_score_difference_max" in report:
            lines.append(
                f"largest difference of a score through Kafka: {report['kafka_score_difference_max']:g} over "
                f"{report['kafka_decisions']:,} decisions"
            )
        return "\n".join(lines)

    def write_predictions(self, path: Path) -> None:
        """Write a row for each payment of the weeks: its id, score, week, whether it was judged, and the model's version."""
        parts = []
        for judged, rows in zip(self._judged, self._rows, strict=True):
            span = self._span(judged.week)
            is_judged = np.zeros(span.stop - span.start, np.bool_)
            is_judged[rows - span.start] = True
            parts.append(
                pa.table(
                    {
                        self._columns.get("transaction_id", "transaction_id"): identifiers(self._ids[span]),
                        "score": judged.scores,
                        "week": [judged.week.name] * len(is_judged),
                        "judged": is_judged,
                        "model_version": [judged.artifact.version] * len(is_judged),
                    }
                )
            )
        pyarrow.parquet.write_table(pa.concat_tables(parts, promote_options="permissive"), path)

    def plot(self, folder: Path, report: Mapping[str, Any]) -> None:
        """Write the pictures."""
        scores = {name: of_weeks for name, of_weeks in self._scores.items() if name != KAFKA}
        plot_fraud(
            folder,
            scores,
            [self.payments.is_fraud[rows] for rows in self._rows],
            [week.name for week in self.weeks],
            {name: [week["models"][name] for week in report["weeks"]] for name in scores},
        )

    @staticmethod
    def check_kafka(report: Mapping[str, Any]) -> None:
        """Raise AnswersIncomplete where a score through Kafka is another than the one computed here."""
        if report.get("kafka_score_difference_max"):
            raise AnswersIncomplete(
                f"fraud-decisions: expected the scores computed from the same payments here, got differences up to "
                f"{report['kafka_score_difference_max']:g}; this is a bug of the worker's features"
            )

    def _span(self, week: Week) -> slice:
        return self.payments.between(week.begin, week.end)

    def _score(
        self, frozen: Artifact | None, folder: Path, features: NDArray[np.float32], seed: int, tell: Progress
    ) -> None:
        step = (TRAINED - 0.1) / len(self.weeks)
        for number, week in enumerate(self.weeks):
            artifact, begin = frozen, 0.1 + step * number
            if artifact is None:
                artifact = train_until(
                    folder / week.name,
                    self.payments.table,
                    features,
                    week.known_until,
                    seed=seed,
                    progress=part_of(tell, begin, begin + step, f"{week.name}: "),
                )
            runner = FraudRunner(artifact, device="cpu")
            self._judged.append(_Judged(week, artifact, runner.score(features[self._span(week)])))

    def _book_features(self, path: Path | None, tell: Progress) -> NDArray[np.float32]:
        """Return float32[N, 15] in the order of the payments, computed or from a file."""
        tell("build the Handbook's features", 0.02)
        if path is None:
            return book_features(self.payments.table)
        own = list(BOOK_FEATURES)[1:]
        file = ColumnFile(path)
        id_column = self._columns.get("transaction_id", "transaction_id")
        for column in (id_column, *own):
            file.require(column)
        features = np.full((len(self._ids), len(BOOK_FEATURES)), np.nan, np.float32)
        features[:, 0] = self.payments.table["amount"]
        for batch in file.batches([id_column, *own]):
            ids = as_list(file.convert(batch, id_column, to_text))
            places = np.array([self._row_of.get(payment or "", -1) for payment in ids], np.int64)
            for number, column in enumerate(own, start=1):
                values = np.array(as_list(file.convert(batch, column, to_number)), np.float32)
                features[places[places >= 0], number] = values[places >= 0]
        if missing := int(np.isnan(features).any(axis=1).sum()):
            raise SourceError(
                f"{path}: expected every feature of each payment, got {missing:,} payments without; take the file that "
                "belongs to the payments"
            )
        return features

    def _through_kafka(self, tell: Progress) -> dict[str, Any]:
        """Score the weeks by workers; return the largest difference from the scores computed here."""
        groups: dict[str, list[_Judged]] = {}
        for judged in self._judged:
            groups.setdefault(judged.artifact.version, []).append(judged)
        of_weeks: list[Scores] = []
        largest, decisions = 0.0, 0
        for number, group in enumerate(groups.values()):
            begin, step = BASELINES_DONE, (1.0 - BASELINES_DONE) / len(groups)
            begin += step * number
            scores = self._decisions(group, part_of(tell, begin, begin + step, f"{group[-1].week.name}: "))
            decisions += len(scores)
            for judged in group:
                span = self._span(judged.week)
                largest = max(largest, float(np.abs(scores[span] - judged.scores).max()))
                of_weeks.append(scores[self._rows[self.weeks.index(judged.week)]])
        self._scores[KAFKA] = of_weeks
        return {"kafka_score_difference_max": largest, "kafka_decisions": decisions}

    def _decisions(self, group: list[_Judged], tell: Progress) -> Scores:
        """Return the scores, float64, of all payments up to the end of the last week, as a worker decides them."""
        artifact, end = group[0].artifact, group[-1].week.end
        count = self.payments.between(0, end).stop
        scores = np.zeros(count)
        answered = np.zeros(count, np.int64)
        decode = msgspec.json.Decoder(_Scored).decode

        def receive(values: list[bytes]) -> None:
            for decision in map(decode, values):
                row = self._row_of.get(decision.transaction_id, count)
                if row >= count or decision.model_version != artifact.version:
                    raise AnswersIncomplete(
                        f"fraud-decisions: expected decisions of model {artifact.version:.12} on payments sent, got one on "
                        f"{decision.transaction_id} by {decision.model_version:.12}; this is a bug"
                    )
                scores[row] = decision.score
                answered[row] += 1

        events = EventFile(self._path, TRANSACTIONS, columns=self._columns, label=self._label)
        answers(
            events.slices(sort=True, limit=count),
            count,
            TRANSACTIONS,
            DECISIONS,
            settings={"fraud_artifact": str(artifact.folder.absolute()), "device": "cpu"},
            receive=receive,
            tell=tell,
            label_delay_ms=LABEL_DELAY_MS,
        )
        if wrong := np.flatnonzero(answered != 1).tolist():
            raise AnswersIncomplete(
                f"fraud-decisions: expected one decision for each of {count:,} payments, got none for "
                f"{int((answered == 0).sum()):,} and several for {int((answered > 1).sum()):,} "
                f"({self._ids[wrong[0]]}: {answered[wrong[0]]})"
            )
        return scores

    def _report(self, kafka: dict[str, Any] | None) -> dict[str, Any]:
        judged = {
            name: [self.payments.judge(scores, rows) for scores, rows in zip(of_weeks, self._rows, strict=True)]
            for name, of_weeks in self._scores.items()
        }
        weeks = [
            {
                "week": each.week.name,
                "payments": len(rows),
                "frauds": int(self.payments.is_fraud[rows].sum()),
                "model": each.artifact.name,
                "model_version": each.artifact.version,
                "models": {name: of_weeks[number] for name, of_weeks in judged.items()},
            }
            for number, (each, rows) in enumerate(zip(self._judged, self._rows, strict=True))
        ]
        means = {name: mean(of_weeks) for name, of_weeks in judged.items()}
        return {"weeks": weeks, "mean": means, **(kafka or {}), "versions": versions()}


def identifiers(texts: list[str]) -> pa.Array:
    """Return identifiers as int64 where each is the text of one, so that they join with a file of numbers; else as text."""
    try:
        numbers = [int(text) for text in texts]
    except ValueError:
        return pa.array(texts, pa.string())
    same = all(str(number) == text and -(2**63) <= number < 2**63 for number, text in zip(numbers, texts, strict=True))
    return pa.array(numbers, pa.int64()) if same else pa.array(texts, pa.string())
