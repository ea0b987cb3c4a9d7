"""`streams evaluate`: how good a model is, by the protocols of the literature."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from streams.commands.parameters import SEED, Pairs, merged
from streams.commands.progress import stages

if TYPE_CHECKING:
    from streams.judging.fraud import FraudEvaluation
    from streams.judging.recommender import RecommenderEvaluation

NONE: Final = "none"
BASELINES: Final = ("logistic-regression", "random-forest", "xgboost")
FILE: Final = click.Path(dir_okay=False, path_type=Path)
FOLDER: Final = click.Path(file_okay=False, path_type=Path)


class BaselineList(click.ParamType):
    """Names of baselines with commas between, or `none`."""

    name = "name,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names, each once."""
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(name.strip() for name in str(value).split(",")))
        if names == (NONE,):
            return ()
        for name in names:
            if name not in BASELINES:
                self.fail(f"expected {', '.join(BASELINES)} or {NONE}, got {name!r}", param, ctx)
        return names


def _in_a_folder(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Refuse, before hours of training, a file that could not be written after them."""
    if value is not None and not value.absolute().parent.is_dir():
        raise click.BadParameter(f"expected a file in a folder that exists, got {value}; make {value.parent} first")
    return value


def _common(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--through-kafka", is_flag=True, help="Judge what a worker on an embedded Kafka publishes as well."
        ),
        click.option("--plots", type=FOLDER, help="Write pictures (PNG) to this folder."),
        click.option(
            "--predictions",
            type=FILE,
            callback=_in_a_folder,
            help="Write what the model answered to this parquet file.",
        ),
        click.option("--json", "json_file", type=FILE, callback=_in_a_folder, help="Write all figures to this file."),
        click.option("--seed", type=SEED, default=7, show_default=True, help="Fixes first weights and batches."),
        click.option("--output", type=FOLDER, help="Keep the trained artifacts here (default: they are dropped)."),
        click.option("--artifact", type=FOLDER, help="Judge this frozen artifact; train none."),
    ):
        command = option(command)
    return command


@click.group()
def evaluate() -> None:
    """Judge the fraud model or the recommender by the protocols of the literature.

    \b
    Examples:
      streams evaluate fraud --data payments.parquet --test-from 2018-08-08 --weeks 4
      streams evaluate recommender --train sessions.npz
    """


@evaluate.command()
@click.option("--data", type=FILE, required=True, help="Payments: parquet, CSV or NDJSON.")
@click.option(
    "--test-from", type=click.DateTime(["%Y-%m-%d"]), required=True, help="First day (UTC) of the first week."
)
@click.option("--weeks", type=click.IntRange(min=1), default=1, show_default=True, help="Consecutive test weeks.")
@click.option("--columns", type=Pairs(), multiple=True, help="FIELD=COLUMN,... as in `streams produce`.")
@click.option("--labels", default="fraud", show_default=True, metavar="COLUMN", help="The column that tells fraud.")
@click.option(
    "--baselines",
    type=BaselineList(),
    default="logistic-regression,random-forest",
    show_default=True,
    help="Models of the Handbook to compare with; none: without them.",
)
@click.option("--book-features", type=FILE, help="The Handbook's features for the baselines (default: computed here).")
@_common
def fraud(
    data: Path,
    test_from: datetime,
    weeks: int,
    columns: tuple[dict[str, str], ...],
    labels: str,
    baselines: tuple[str, ...],
    book_features: Path | None,
    artifact: Path | None,
    output: Path | None,
    seed: int,
    json_file: Path | None,
    predictions: Path | None,
    plots: Path | None,
    through_kafka: bool,
) -> None:
    """Judge the fraud model week by week, trained on what was known when each week began.

    The prequential protocol of the Fraud Detection Handbook: for a week from day D, labels of payments before D - 7 days
    are known; cards with a fraud that is known leave the test set. AUC ROC, average precision (AP), precision among the
    100 cards scored highest in a day (CP@100), calibration error (ECE). Baselines learn from the last seven days whose
    labels are known, ours from all of them. Days are UTC days; rows are sorted by time, ties as in the file.

    Columns transaction_id (or tx_id), event_time (or ts), card_id (or customer), terminal_id (or terminal), amount, and
    the label; --columns names others, the rest is ignored.

    --through-kafka starts a Kafka and a worker with the week's artifact, sends all payments up to the end of the week with
    their labels, and judges the decisions read back; exit code 1 unless each payment has exactly one and the scores are
    those computed here.

    \b
    Examples:
      streams evaluate fraud --data payments.parquet --test-from 2018-08-08 --weeks 4 --json fraud.json
      streams evaluate fraud --data payments.parquet --test-from 2018-08-08 --artifact artifacts/fraud --baselines none
    """
    if book_features is not None and not baselines:
        raise click.UsageError("--book-features: only with --baselines")
    _refuse_output_of_artifact(artifact, output)
    from streams.judging.fraud import FraudEvaluation

    first = int(test_from.replace(tzinfo=UTC).timestamp() * 1000)
    with stages() as tell:
        evaluation = FraudEvaluation(data, first, weeks, merged(columns), labels, tell)
        report = evaluation.run(
            artifact,
            output,
            seed,
            baselines=baselines,
            book_file=book_features,
            through_kafka=through_kafka,
            tell=tell,
        )
    _finish(evaluation, report, json_file, predictions, plots)


@evaluate.command()
@click.option("--train", "train_file", type=FILE, help="Sessions to train on: .npz with items and offsets.")
@click.option(
    "--test",
    "test_file",
    type=FILE,
    help="Examples: .npz with items, offsets and targets (default: the newest tenth of --train, which is then left out).",
)
@click.option("--examples", type=click.IntRange(min=1), help="Judge the first so many examples only.")
@_common
def recommender(
    train_file: Path | None,
    test_file: Path | None,
    examples: int | None,
    artifact: Path | None,
    output: Path | None,
    seed: int,
    json_file: Path | None,
    predictions: Path | None,
    plots: Path | None,
    through_kafka: bool,
) -> None:
    """Judge the recommender on the next clicks of sessions that it was not trained on.

    Session k of the training file is items[offsets[k]:offsets[k+1]], in time order. Example k of the test file is the
    prefix items[offsets[k]:offsets[k+1]] with the answer targets[k]. All items are ranked, seen ones too: the share of
    targets among the first 20 (P@20), the mean reciprocal rank (MRR@20), the share of the vocabulary that is shown
    (coverage), and how popular it is.

    Empty sessions and items of a prefix that the model does not know are passed over; a target that it does not know is
    a miss, and counted. Without --test, items of the test part that the training part lacks are dropped first.

    --through-kafka sends each example as a session of its own to a Kafka and a worker started for it, with
    seen_items=keep, and judges the slate after its last click; exit code 1 unless the slates are those computed here.

    \b
    Examples:
      streams evaluate recommender --train sessions.npz --json recommender.json
      streams evaluate recommender --train sessions.npz --test examples.npz --predictions slates.parquet
      streams evaluate recommender --artifact artifacts/recommender --test examples.npz --examples 1000 --through-kafka
    """
    if (train_file is None) == (artifact is None):
        raise click.UsageError("expected one of --train FILE and --artifact FOLDER")
    if artifact is not None and test_file is None:
        raise click.UsageError("--artifact: needs --test FILE, sessions that it was not trained on")
    _refuse_output_of_artifact(artifact, output)
    from streams.judging.recommender import RecommenderEvaluation

    evaluation = RecommenderEvaluation(train_file, test_file, examples)
    with stages() as tell:
        report = evaluation.run(artifact, output, seed, through_kafka, tell)
    _finish(evaluation, report, json_file, predictions, plots)


def _refuse_output_of_artifact(artifact: Path | None, output: Path | None) -> None:
    if artifact is not None and output is not None:
        raise click.UsageError("--output: nothing is trained with --artifact; leave one of them out")


def _finish(
    evaluation: FraudEvaluation | RecommenderEvaluation,
    report: Mapping[str, Any],
    json_file: Path | None,
    predictions: Path | None,
    plots: Path | None,
) -> None:
    """Print the table and write the files; then raise where answers through Kafka differ."""
    click.echo(evaluation.table(report))
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if predictions is not None:
        evaluation.write_predictions(predictions)
    if plots is not None:
        evaluation.plot(plots, report)
    evaluation.check_kafka(report)
