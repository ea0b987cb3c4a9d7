"""Time of decoding per record: `python tests/bench/decoding.py [--bad 0.1]`.

Batches as a worker sees them: 2,048 payments of 260 bytes, all good or with a share of bad ones of six kinds. Times are
CPU time of the thread, so that neighbours on the machine count less.
"""

import argparse
import json
import statistics
import time

from streams.contract.columns import Limits
from streams.contract.decoding import decode_transactions

NOW_MS = 1_712_345_678_901
BATCH_RECORDS = 2_048
PAYMENT = {
    "transaction_id": "",
    "event_time": NOW_MS,
    "card_id": "card-0001234",
    "terminal_id": "terminal-00042",
    "amount": 123.45,
    "currency": "EUR",
    "user_id": "user-00123",
    "channel": "online",
    "merchant_category": "groceries",
    "country": "NL",
}
BAD: tuple[bytes | None, ...] = (
    None,
    b'{"amount":',
    b"\xff\xfe",
    json.dumps(PAYMENT | {"amount": float("nan"), "transaction_id": "t"}).encode(),
    json.dumps(PAYMENT | {"amount": "12", "transaction_id": "t"}).encode(),
    json.dumps(PAYMENT | {"transaction_id": "t"}).encode()[:-1] + b', "amount": 1}',
)


def batch(bad: float) -> list[bytes | None]:
    """Return the values of one batch, `bad` of them not valid, spread evenly."""
    every = round(1 / bad) if bad else 0
    return [
        BAD[row // every % len(BAD)]
        if every and row % every == 0
        else json.dumps(PAYMENT | {"transaction_id": f"tx-{row:012d}"}).encode()
        for row in range(BATCH_RECORDS)
    ]


def main() -> None:
    """Print the median and the spread of the time per record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bad", type=float, default=0.0, help="share of bad records")
    parser.add_argument("--runs", type=int, default=200)
    arguments = parser.parse_args()
    values = batch(arguments.bad)
    decoded = decode_transactions(values, now_ms=NOW_MS, limits=Limits())
    times_ns = []
    for _ in range(arguments.runs):
        started = time.thread_time_ns()
        decode_transactions(values, now_ms=NOW_MS, limits=Limits())
        times_ns.append((time.thread_time_ns() - started) / len(values))
    deciles = statistics.quantiles(times_ns, n=10)
    print(
        f"{len(decoded.accepted)} accepted, {len(decoded.rejected)} rejected: "
        f"{statistics.median(times_ns):.0f} ns a record ({deciles[0]:.0f} to {deciles[-1]:.0f})"
    )


if __name__ == "__main__":
    main()
