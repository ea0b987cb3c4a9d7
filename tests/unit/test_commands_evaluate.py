"""`streams evaluate`: figures and files from small data, and one sentence where there can be none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from models.artifacts import load_artifact
from models.evaluation.plots import FRAUD_PLOTS, RECOMMENDER_PLOTS
from models.simulator.clicks import simulate_clicks
from models.simulator.payments import simulate_payments
from streams.commands import main
from streams.judging.fraud import identifiers

# The simulator starts on 2024-01-01; 25,000 payments of 170 cards take about a hundred days.
FIRST = "2024-03-18"


pytestmark = pytest.mark.usefixtures("few_epochs")


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def payments() -> dict[str, Any]:
    simulated = dict(simulate_payments(25_000, seed=5, cards=170, terminals=85))
    return {
        "tx_id": np.arange(100, 25_100),
        "ts": pa.array(simulated["event_time"], pa.timestamp("ms")),
        "customer": simulated["card_id"],
        "terminal": simulated["terminal_id"],
        "amount": simulated["amount"],
        "fraud": simulated["is_fraud"].astype(np.int8),
        "scenario": ["told" if fraud else "" for fraud in simulated["is_fraud"].tolist()],
    }


@pytest.fixture(scope="module")
def file(payments: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("payments") / "payments.parquet"
    pyarrow.parquet.write_table(pa.table(payments), path)
    return path


@pytest.fixture(scope="module")
def judged(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Folder of everything that a call can write, and what it printed."""
    folder = tmp_path_factory.mktemp("judged")
    result = evaluate(
        "fraud", "--data", file, "--test-from", FIRST, "--weeks", 2, "--baselines", "logistic-regression,xgboost",
        "--json", folder / "f.json", "--predictions", folder / "f.parquet", "--plots", folder / "plots",
        "--output", folder / "artifacts",
    )  # fmt: skip
    return folder, result


def test_fraud_figures_are_those_of_the_predictions(judged: tuple[Path, Result], payments: dict[str, Any]) -> None:
    """One row a week, model and mean; scikit-learn finds the same figures in the file of predictions."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    folder, result = judged
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "f.json").read_text())
    assert [week["week"] for week in report["weeks"]] == [FIRST, "2024-03-25"]
    assert list(report["mean"]) == ["streams", "logistic-regression", "xgboost"]
    assert result.output.count("\n") == 1 + 2 * 3 + 3
    rows = pyarrow.parquet.read_table(folder / "f.parquet")
    assert rows.column_names == ["tx_id", "score", "week", "judged", "model_version"]
    columns = {name: rows[name].to_numpy() for name in rows.column_names}
    frauds = payments["fraud"][columns["tx_id"] - 100]
    for week in report["weeks"]:
        chosen = columns["judged"] & (columns["week"] == week["week"])
        assert (chosen.sum(), frauds[chosen].sum()) == (week["payments"], week["frauds"])
        assert chosen.sum() < (columns["week"] == week["week"]).sum()
        figures = week["models"]["streams"]
        assert figures["auc"] == pytest.approx(roc_auc_score(frauds[chosen], columns["score"][chosen]))
        precision = average_precision_score(frauds[chosen], columns["score"][chosen])
        assert figures["average_precision"] == pytest.approx(precision)
        assert f"{figures['auc']:.4f}" in result.output
        version = load_artifact(folder / "artifacts" / week["week"]).version
        assert week["model_version"] == version and set(columns["model_version"][chosen]) == {version}
    assert {path.name for path in (folder / "plots").iterdir()} == set(FRAUD_PLOTS)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (folder / "plots").iterdir())


def test_order_of_rows_and_other_columns_change_nothing(
    judged: tuple[Path, Result], payments: dict[str, Any], tmp_path: Path
) -> None:
    """Rows are sorted by time; a column that tells the label stays behind; names of the fields are found too."""
    path = tmp_path / "shuffled.parquet"
    order = np.random.default_rng(0).permutation(25_000)
    names = {"tx_id": "transaction_id", "ts": "event_time", "customer": "card_id", "terminal": "terminal_id"}
    table = pa.table({names.get(name, name): column for name, column in payments.items() if name != "scenario"})
    pyarrow.parquet.write_table(table.take(pa.array(order)), path)
    result = evaluate(
        "fraud", "--data", path, "--test-from", FIRST, "--baselines", "none", "--json", tmp_path / "f.json"
    )
    assert result.exit_code == 0, result.output
    mine = json.loads((tmp_path / "f.json").read_text())["weeks"][0]
    other = json.loads((judged[0] / "f.json").read_text())["weeks"][0]
    assert mine["models"]["streams"]["auc"] == pytest.approx(other["models"]["streams"]["auc"], abs=0.03)
    assert (mine["payments"], mine["frauds"]) == (other["payments"], other["frauds"])


def test_later_labels_change_neither_model_nor_scores(
    judged: tuple[Path, Result], payments: dict[str, Any], tmp_path: Path
) -> None:
    """Labels from a week before the test week on are not known when it begins: other ones, same model, same first hour."""
    path = tmp_path / "relabelled.parquet"
    late = np.asarray(payments["ts"].cast("int64")) >= np.datetime64("2024-03-11").astype("datetime64[ms]").astype(int)
    other = np.where(late, np.random.default_rng(1).random(25_000) < 0.2, payments["fraud"])
    pyarrow.parquet.write_table(pa.table({**payments, "fraud": other.astype(np.int8)}), path)
    result = evaluate(
        "fraud", "--data", path, "--test-from", FIRST, "--baselines", "none", "--predictions", tmp_path / "f.parquet"
    )
    assert result.exit_code == 0, result.output
    mine = pyarrow.parquet.read_table(tmp_path / "f.parquet")
    before = pyarrow.parquet.read_table(judged[0] / "f.parquet").slice(0, mine.num_rows)
    assert mine["model_version"][0] == before["model_version"][0]
    first_hour = np.asarray(payments["ts"].cast("int64"))[mine["tx_id"].to_numpy() - 100] < (
        np.datetime64("2024-03-18T01:00").astype("datetime64[ms]").astype(int)
    )
    assert 0 < first_hour.sum() < mine.num_rows
    assert np.array_equal(mine["score"].to_numpy()[first_hour], before["score"].to_numpy()[first_hour])


def test_frozen_artifact_is_judged_unless_it_knew_the_week(judged: tuple[Path, Result], file: Path) -> None:
    """The artifact of a week may be judged on it and on later ones, not on earlier ones."""
    week = judged[0] / "artifacts" / "2024-03-25"
    result = evaluate("fraud", "--data", file, "--test-from", "2024-03-25", "--artifact", week, "--baselines", "none")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[1].split() == judged[1].output.splitlines()[4].split()
    result = evaluate("fraud", "--data", file, "--test-from", FIRST, "--artifact", week, "--baselines", "none")
    assert result.exit_code == 1
    assert "labels are known 7 days late" in result.stderr and result.stderr.count("\n") == 1


def test_book_features_of_a_file_take_the_place_of_ours(file: Path, payments: dict[str, Any], tmp_path: Path) -> None:
    """They are joined by transaction_id; one that is missing is an error."""
    from models.evaluation.baselines import BOOK_FEATURES

    order = np.random.default_rng(0).permutation(25_000)
    columns = {name: np.zeros(25_000, np.float32) for name in list(BOOK_FEATURES)[1:]}
    book = tmp_path / "book.parquet"
    pyarrow.parquet.write_table(pa.table({"tx_id": payments["tx_id"][order], **columns}), book)
    call = (
        "fraud",
        "--data",
        file,
        "--test-from",
        FIRST,
        "--baselines",
        "logistic-regression",
        "--book-features",
        book,
    )
    result = evaluate(*call)
    assert result.exit_code == 0, result.output
    pyarrow.parquet.write_table(
        pa.table({"tx_id": payments["tx_id"][order][1:], **{k: v[1:] for k, v in columns.items()}}), book
    )
    result = evaluate(*call)
    assert result.exit_code == 1 and "got 1 payments without" in result.stderr


@pytest.mark.parametrize(
    ("change", "arguments", "sentence"),
    [
        ({"amount": None}, (), "no column for amount"),
        ({"fraud": None}, (), "no column 'fraud'"),
        ({"ts": None}, (), "event_time"),
        ({"amount": ["much"] * 25_000}, (), "column 'amount' (string)"),
        ({"ts": ["soon"] * 25_000}, (), "column 'ts'"),
        ({"ts": [True] * 25_000}, (), "expected timestamps"),
        ({"fraud": [2] * 25_000}, (), "expected 0 or 1"),
        ({"fraud": [None, *[0] * 24_999]}, (), "1 rows without"),
        ({"fraud": [0] * 25_000}, (), "expected frauds, got none"),
        ({"fraud": [1] * 25_000}, (), "expected frauds and genuine payments"),
        ({"amount": [-1.0] * 25_000}, (), "negative"),
        ({"amount": [float("nan")] * 25_000}, (), "finite"),
        ({"amount": [None, *[1.0] * 24_999]}, (), "expected amount in each row"),
        ({"customer": [None, *["c"] * 24_999]}, (), "expected card_id in each row"),
        ({"tx_id": [1] * 25_000}, (), "24,999 repeats"),
        ({}, ("--test-from", "2024-01-10"), "choose other weeks"),
        ({}, ("--test-from", "2031-01-10"), "choose other weeks"),
        ({}, ("--weeks", "40"), "choose other weeks"),
        ({}, ("--labels", "scenari"), "did you mean 'scenario'"),
        ({}, ("--columns", "card_id=nobody"), "no column 'nobody'"),
        ({}, ("--artifact", "nowhere"), "expected an artifact's file"),
    ],
)
def test_payments_that_do_not_fit_are_told_in_one_line(
    payments: dict[str, Any], tmp_path: Path, change: dict[str, Any], arguments: tuple[str, ...], sentence: str
) -> None:
    """Exit code 1, a sentence that names the place, no traceback and no figure."""
    path = tmp_path / "bad.parquet"
    columns = {name: column for name, column in {**payments, **change}.items() if column is not None}
    pyarrow.parquet.write_table(pa.table(columns), path)
    result = evaluate("fraud", "--data", path, "--test-from", FIRST, "--baselines", "none", *arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit) and result.stderr.count("\n") == 1
    assert sentence in result.stderr and "AUC" not in result.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("fraud", "--data", "x.parquet"), "--test-from"),
        (("fraud", "--data", "x.parquet", "--test-from", "soon"), "soon"),
        (("fraud", "--data", "x.parquet", "--test-from", FIRST, "--weeks", "0"), "--weeks"),
        (
            ("fraud", "--data", "x.parquet", "--test-from", FIRST, "--baselines", "oracle"),
            "expected logistic-regression",
        ),
        (("fraud", "--data", "x", "--test-from", FIRST, "--artifact", "a", "--output", "b"), "nothing is trained"),
        (
            ("fraud", "--data", "x", "--test-from", FIRST, "--book-features", "b", "--baselines", "none"),
            "only with --baselines",
        ),
        (("fraud", "--data", "x", "--test-from", FIRST, "--json", "no/such/folder.json"), "folder that exists"),
        (("recommender",), "one of --train FILE and --artifact FOLDER"),
        (("recommender", "--train", "x.npz", "--artifact", "a"), "one of --train FILE and --artifact FOLDER"),
        (("recommender", "--artifact", "a"), "needs --test"),
        (("recommender", "--train", "x.npz", "--examples", "0"), "--examples"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], sentence: str) -> None:
    """A call that cannot work is refused before a file is read."""
    result = evaluate(*arguments)
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.replace("│", " ").split())


def test_files_that_are_not_there_are_exit_code_1() -> None:
    """Either command names the file."""
    for arguments in (
        ("fraud", "--data", "missing.parquet", "--test-from", FIRST),
        ("recommender", "--train", "missing.npz"),
    ):
        result = evaluate(*arguments)
        assert result.exit_code == 1 and "missing." in result.stderr and result.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clicks = dict(simulate_clicks(8_000, seed=5, items=200))
    by_session: dict[str, list[int]] = {}
    for session, item in zip(clicks["session_id"], clicks["item_id"], strict=True):
        by_session.setdefault(session, []).append(int("".join(filter(str.isdigit, item))))
    lists = list(by_session.values())
    path = tmp_path_factory.mktemp("sessions") / "sessions.npz"
    np.savez(path, items=np.concatenate(lists), offsets=np.cumsum([0, *map(len, lists)]))
    return path


def test_recommender_figures_are_those_of_the_slates(sessions: Path, tmp_path: Path) -> None:
    """A row for each part; the file of slates holds each example's items in order, and gives the same figures."""
    from models.evaluation.sessions import read_sessions, split

    result = evaluate(
        "recommender", "--train", sessions, "--json", tmp_path / "r.json", "--predictions", tmp_path / "r.parquet",
        "--plots", tmp_path / "plots", "--output", tmp_path / "artifact",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert list(report["parts"]) == ["popularity", "item-item", "neighbours", "sequence", "blend"]
    assert report["model_version"] == load_artifact(tmp_path / "artifact").version
    _, examples = split(read_sessions(sessions))
    rows = pyarrow.parquet.read_table(tmp_path / "r.parquet").to_pylist()
    assert [row["example"] for row in rows] == list(range(len(examples))) == list(range(report["examples"]))
    ranks = [
        row["items"].index(target) + 1 if target in row["items"] else 0
        for row, target in zip(rows, examples.targets.tolist(), strict=True)
    ]
    figures = report["parts"]["blend"]
    assert figures["p_at_20"] == pytest.approx(np.mean([rank > 0 for rank in ranks]))
    assert figures["mrr_at_20"] == pytest.approx(np.mean([1 / rank if rank else 0 for rank in ranks]))
    assert figures["p_at_20"] > report["parts"]["popularity"]["p_at_20"]
    assert f"{100 * figures['p_at_20']:.2f}" in result.output
    assert {path.name for path in (tmp_path / "plots").iterdir()} == set(RECOMMENDER_PLOTS)

    np.savez(
        tmp_path / "test.npz", targets=np.append(examples.targets, 10**9)[-50:], items=examples.items[:50],
        offsets=np.arange(51),
    )  # fmt: skip
    result = evaluate(
        "recommender", "--artifact", tmp_path / "artifact", "--test", tmp_path / "test.npz", "--examples", 50
    )
    assert result.exit_code == 0, result.output
    assert "50 examples, 1 of their targets unknown" in result.output


def test_recommender_complains_in_one_line(sessions: Path, tmp_path: Path) -> None:
    """A file of examples without answers, an artifact of the other kind: exit code 1, one sentence."""
    from models.artifacts import default_artifact

    good = tmp_path / "test.npz"
    np.savez(good, items=np.array([1]), offsets=np.array([0, 1]), targets=np.array([2]))
    for arguments in (
        ("--train", sessions, "--test", sessions),
        ("--artifact", default_artifact("fraud"), "--test", good),
    ):
        result = evaluate("recommender", *arguments)
        assert result.exit_code == 1 and result.stderr.count("\n") == 1, result.output


def test_identifiers_of_numbers_stay_numbers() -> None:
    """So that predictions join with the file they belong to; text that is no plain number stays text."""
    assert identifiers(["1", "-20"]).to_pylist() == [1, -20]
    for texts in (["01"], ["1", "x"], ["9" * 30], ["1.0"], ["+1"], [" 1"], ["１"]):
        assert identifiers(texts).to_pylist() == texts
