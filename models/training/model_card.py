"""Model cards: an artifact described for people, beside the manifest for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.artifacts import Artifact


def fraud_card(artifact: Artifact, review_share: float, decline_precision: float, recall: Mapping[str, float]) -> str:
    """Return the text of a fraud model's card; `recall` by pattern may be empty."""
    manifest = artifact.manifest
    metrics, thresholds, data = manifest["metrics"], manifest["thresholds"], manifest["data"]
    by_threshold = [
        [f"{thresholds[name]:.4f}", name, f"{metrics[f'{name}_precision']:.3f}", f"{metrics[f'{name}_recall']:.3f}"]
        for name in ("review", "decline")
    ]
    part = list(manifest["split"])[-1]
    judged = "" if part == "test" else "Of the weights of the train part, since the final ones have seen this part. "
    text = f"""\
# {artifact.name}

Probability that a card payment is fraudulent: an MLP on {len(manifest["features"])} features, each encoded by its quantiles
({manifest["architecture"]["pieces"]} pieces in all), with hidden layers of
{" and ".join(map(str, manifest["architecture"]["hidden"]))}, Platt-calibrated. Made by `streams train fraud`.

Version `{artifact.version}`

## Data

{data["payments"]:,} payments ({data["source"]}), {100 * data["fraud_share"]:.2f} % of them fraudulent. Every feature is
as it was known at the payment's time, terminal labels {data["label_delay_days"]} days late; a gap as long lies between
the parts. Calibration and thresholds were chosen on the validation part with weights of the train part; the weights
here are fitted again, by the same recipe, on all payments up to the validation part's end.

{_split(manifest, ("payments", "frauds"))}

## Quality on the {part} part

{judged}AUC {metrics["auc"]:.4f}, average precision {metrics["average_precision"]:.4f}, calibration error
{metrics["calibration_error"]:.5f}.

{_table(["from score", "decision", "precision", "recall"], by_threshold)}

The thresholds were chosen on the validation part: decline where {100 * decline_precision:.0f} % of the declined are
fraud, review where {100 * review_share:.0f} % of all payments are looked at, the declined ones among them.
"""
    if recall:
        rows = [[name, f"{share:.3f}"] for name, share in recall.items()]
        text += f"\n{_table(['pattern', 'recall from review on'], rows)}\n"
    return (
        text
        + """
## Limits

Fraud at a newly compromised terminal is unknown until its first labels arrive, a label delay later. Scores are
calibrated for traffic like the training data's; for other traffic train on labelled payments of your own.
"""
    )


def recommender_card(artifact: Artifact) -> str:
    """Return the text of a recommender's card."""
    manifest = artifact.manifest
    metrics, data, architecture = manifest["metrics"], manifest["data"], manifest["architecture"]
    parts = {"all together": "", "network": "sequence_", "past sessions": "neighbours_"}
    parts |= {"past sessions, last click only": "item-item_", "most popular items": "popularity_"}
    rows = [
        [name, *(f"{metrics[prefix + metric]:.4f}" for metric in ("p_at_20", "mrr_at_20"))]
        for name, prefix in parts.items()
    ]
    return f"""\
# {artifact.name}

The next click of a session, over {architecture["items"]:,} items: a GRU with {architecture["heads"]} attention heads
over the last {architecture["length"]} clicks, item vectors of width {architecture["width"]}, blended with the votes of
similar past sessions. Made by `streams train recommender`.

Version `{artifact.version}`

## Data

{data["clicks"]:,} clicks in {data["sessions"]:,} sessions ({data["source"]}). Epochs, votes and blend were chosen on the
last tenth of the sessions by a network that had not seen it; the weights here have seen all of them.

## Quality on the last tenth, not seen in training

{_table(["", "P@20", "MRR@20"], rows)}

P@20 is the share of next clicks among the first 20 of all items, seen ones included. As served, with seen items left
out, it is {metrics["unseen_p_at_20"]:.4f} of the next clicks on items new to the session. The choices made on the same
sessions flatter these figures a little.

## Limits

The model has no vector for items that the training did not have: it skips them in a session, and gives a session of
such items alone the most popular ones. Workers add such items to slates once they are clicked (setting `new_items`).
"""


def _split(manifest: Mapping[str, Any], counts: tuple[str, ...]) -> str:
    rows = [
        [name, *(f"{part[count]:,}" for count in counts), part["from"], part["to"]]
        for name, part in manifest["split"].items()
    ]
    return _table(["part", *counts, "from", "to"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
