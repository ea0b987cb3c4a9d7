"""Compiled loops of the feature state, in one file because numba's cache looks at one.

A cached kernel is recompiled when *its own* file changes, not when a function or constant of another file does.
Kernels that call each other therefore share this file, and constants reach them as arguments.

Layout of a log (see `EventLog`): row `r` holds `meta[r] = (start, length, capacity, newest)`; its events lie in
`times[start:start + length]` (ascending, ties in order of arrival) and `values` beside it. Capacities are powers of
two. `heap[0]` is the first slot never used; `heap[1 + c]` heads a list of freed blocks of 2**c slots, linked through
`times`.
"""

# mypy: allow-untyped-defs

import math

import numpy as np

from models.features.compilation import compiled

START, LENGTH, CAPACITY, NEWEST = 0, 1, 2, 3
NEVER = -(2**62)  # the time of no event; leaves room for subtraction without overflow
CAPACITY_MIN = 4
CAPACITY_CLASSES = 40
GUARD = 1 + CAPACITY_CLASSES  # where `touch` leaves its sum
LINE_SLOTS = 8  # slots in a cache line
# Enough misses to fill a core's queue, few enough for all lines to be there still when they are used.
TOUCH_RECORDS = 32
TOUCH_SLOTS = 128  # two months of payments of a usual card


@compiled
def capacity_class(capacity):
    """Return c with 2**c == capacity."""
    c = 0
    while (1 << c) < capacity:
        c += 1
    return c


@compiled
def take_block(capacity, times, heap):
    """Return the first slot of a free block, or -1 when the arena has no room."""
    c = 1 + capacity_class(capacity)
    block = heap[c]
    if block >= 0:
        heap[c] = times[block]
        return block
    block = heap[0]
    if block + capacity > times.size:
        return -1
    heap[0] = block + capacity
    return block


@compiled
def free_block(meta, row, times, heap):
    """Give the block of `row` back and leave the row empty."""
    capacity = meta[row, CAPACITY]
    if capacity > 0:
        c = 1 + capacity_class(capacity)
        start = meta[row, START]
        times[start] = heap[c]
        heap[c] = start
    meta[row, START] = 0
    meta[row, LENGTH] = 0
    meta[row, CAPACITY] = 0
    meta[row, NEWEST] = NEVER


@compiled
def make_room(meta, row, floor, events_max, times, values, heap):
    """Make room for one more event in a full row: drop what no feature can see, else double. False: arena full."""
    start, length, capacity = meta[row, START], meta[row, LENGTH], meta[row, CAPACITY]
    drop = max(length - events_max, 0)
    while drop < length and times[start + drop] <= floor:
        drop += 1
    kept = length - drop
    if capacity > 0 and drop * 4 >= capacity:
        target = start
    else:
        wanted = max(CAPACITY_MIN, capacity * 2)
        target = take_block(wanted, times, heap)
        if target < 0:
            return False
        capacity = wanted
    for i in range(kept):
        times[target + i] = times[start + drop + i]
        values[target + i] = values[start + drop + i]
    if target != start or meta[row, CAPACITY] == 0:
        newest = meta[row, NEWEST]
        free_block(meta, row, times, heap)
        meta[row, START] = target
        meta[row, CAPACITY] = capacity
        meta[row, NEWEST] = newest
    meta[row, LENGTH] = kept
    return True


@compiled
def insert(meta, row, time, value, is_retry, floor, events_max, times, values, heap):
    """Insert one event at its place (after its ties) and return its slot, or -1 when the arena has no room.

    Of one that comes `is_retry` the slot is returned where it still counts: what a restored row lacks is not looked at.
    """
    if is_retry:
        slot = meta[row, START] + meta[row, LENGTH] - 1
        first = max(meta[row, START], slot + 1 - events_max)
        while slot >= first and times[slot] >= time:
            if times[slot] == time and values[slot] == value:
                return slot
            slot -= 1
    full = meta[row, LENGTH] == meta[row, CAPACITY]
    if full and not make_room(meta, row, floor, events_max, times, values, heap):
        return -1
    start = meta[row, START]
    slot = start + meta[row, LENGTH]
    if time >= meta[row, NEWEST]:
        meta[row, NEWEST] = time
    else:
        while slot > start and times[slot - 1] > time:
            times[slot] = times[slot - 1]
            values[slot] = values[slot - 1]
            slot -= 1
    times[slot] = time
    values[slot] = value
    meta[row, LENGTH] += 1
    return slot


@compiled
def free_rows(rows, meta, times, heap):
    """Empty each of `rows`."""
    for row in rows:
        free_block(meta, row, times, heap)


@compiled
def visible_slots(rows, meta, times, kept, floor, events_max, first, count):
    """Write the first slot and the number of the events of each row that a feature can still see."""
    for k in range(rows.size):
        row = rows[k]
        start, length = meta[row, START], meta[row, LENGTH]
        oldest = max(meta[row, NEWEST] - kept, floor)
        drop = max(length - events_max, 0)
        while drop < length and times[start + drop] <= oldest:
            drop += 1
        first[k] = start + drop
        count[k] = length - drop


@compiled
def restore_rows(begin, rows, ends, newest, source_times, source_values, meta, times, values, heap):
    """Replace the events of rows begin.. by source[ends[k - 1]:ends[k]]; return how many are done."""
    for k in range(begin, rows.size):
        row = rows[k]
        first = ends[k - 1] if k > 0 else 0
        count = ends[k] - first
        free_block(meta, row, times, heap)
        capacity = CAPACITY_MIN
        while capacity < count:
            capacity *= 2
        start = take_block(capacity, times, heap)
        if start < 0:
            return k
        for i in range(count):
            times[start + i] = source_times[first + i]
            values[start + i] = source_values[first + i]
        meta[row, START] = start
        meta[row, LENGTH] = count
        meta[row, CAPACITY] = capacity
        meta[row, NEWEST] = newest[k]
    return rows.size


@compiled
def touch(rows, begin, meta, times, values):
    """Read the latest events of the next rows, so that their cache misses overlap instead of each waiting for the last.

    Returns a sum, which the caller must store: the compiler drops reads without a use.
    """
    end = min(begin + TOUCH_RECORDS, rows.size)
    total = np.int64(0)
    for k in range(begin, end):
        if rows[k] >= 0:
            total += meta[rows[k], LENGTH]
    for k in range(begin, end):
        row = rows[k]
        if row >= 0:
            start = meta[row, START]
            slot = start + meta[row, LENGTH] - 1
            first = max(start, slot - TOUCH_SLOTS)
            while slot >= first:
                total += times[slot] + np.int64(values[slot] > 0)
                slot -= LINE_SLOTS
    return total


@compiled
def typical_columns(oldest, slot, total, square, t, a, times, values, recent_ms, outlier_ratio, out, k, at):
    """Write how the payment and the card's latest ones compare to the events in [oldest, slot), of known moments.

    The centre and spread are those of the amounts within two spreads above the centre, taken twice, so that a few large
    amounts hide neither themselves nor the next one.
    """
    count = slot - oldest
    centre = a
    spread = 0.5 * a
    if count > 0:
        centre = total / count
        spread = math.sqrt(max(square / count - centre * centre, 0.0))
        for _ in range(2):
            bound = centre + 2.0 * spread
            used, total, square = 0, 0.0, 0.0
            for i in range(oldest, slot):
                v = values[i]
                if v <= bound:
                    used += 1
                    total += v
                    square += v * v
            if used > 0:
                centre = total / used
                spread = math.sqrt(max(square / used - centre * centre, 0.0))
    scale = 1.0 / max(centre, 0.01)
    limit = outlier_ratio * max(centre, 0.01)
    largest, second = 0.0, 0.0
    outliers, half = 0, 0
    since = recent_ms
    i = slot - 1
    while i >= oldest and times[i] > t - recent_ms:
        v = values[i]
        if v > largest:
            second = largest
            largest = v
        elif v > second:
            second = v
        if v > limit:
            age = t - times[i]
            if outliers == 0:
                since = age
            outliers += 1
            if 2 * age < recent_ms:
                half += 1
        i -= 1
    out[k, at] = centre
    out[k, at + 1] = min(a * scale, 1000.0)
    out[k, at + 2] = min(max((a - centre) / max(spread, 0.1 * centre + 0.01), -10.0), 50.0)
    out[k, at + 3] = min(values[slot - 1] * scale, 1000.0) if count > 0 else 1.0
    out[k, at + 4] = min(largest * scale, 1000.0)
    out[k, at + 5] = min(second * scale, 1000.0)
    out[k, at + 6] = half
    out[k, at + 7] = outliers
    out[k, at + 8] = since / 3_600_000.0


@compiled
def update_cards(
    begin, rows, event_time, amount, is_retry, meta, times, values, heap, dirty, watermark, windows, sums, horizon,
    typical_ms, recent_ms, outlier_ratio, kept_ms, events_max, out, column,
):  # fmt: skip
    """Insert payments begin.. in order, those that come `is_retry` only where they do not stand, and write their features.

    Stop where the arena is full. Returns (records done, watermark).
    """
    guard = np.int64(0)
    for k in range(begin, rows.size):
        if (k - begin) % TOUCH_RECORDS == 0:
            guard += touch(rows, k, meta, times, values)
        t, a, row = event_time[k], amount[k], rows[k]
        mark = max(watermark, t)
        late = t < mark - horizon
        first = 0
        slot = 0
        floor = NEVER
        if not late:
            floor = max(meta[row, NEWEST], t) - kept_ms
            slot = insert(meta, row, t, a, is_retry[k], floor, events_max, times, values, heap)
            if slot < 0:
                return k, watermark
            dirty[row] = 1
            first = meta[row, START] + max(meta[row, LENGTH] - events_max, 0)
        watermark = mark
        i = slot - 1
        total = a
        square = 0.0
        largest = 0.0
        before = 0.0
        count = 1
        at = column
        for w in range(windows.size):
            bound = max(t - windows[w], floor)
            while i >= first and times[i] > bound:
                v = values[i]
                total += v
                before += v
                square += v * v
                largest = max(largest, v)
                count += 1
                i -= 1
            out[k, at] = count
            out[k, at + 1] = total if w < sums else total / count
            at += 2
        history = count - 1
        since = horizon
        ratio = 1.0
        z = 0.0
        if history > 0:
            since = t - times[slot - 1]
            mean = before / history
            if mean > 0.0:
                ratio = a / mean
            if history > 1:
                deviation = math.sqrt(max(square / history - mean * mean, 0.0))
                z = (a - mean) / max(deviation, 0.01 * mean + 0.01)
                z = min(max(z, -10.0), 10.0)
        largest = max(largest, a)
        out[k, at] = since / 1000.0
        out[k, at + 1] = ratio
        out[k, at + 2] = z
        out[k, at + 3] = a / largest if largest > 0.0 else 1.0
        bound = max(t - typical_ms, floor)
        while i >= first and times[i] > bound:
            v = values[i]
            before += v
            square += v * v
            i -= 1
        typical_columns(i + 1, slot, before, square, t, a, times, values, recent_ms, outlier_ratio, out, k, at + 4)
    heap[GUARD] = guard
    return rows.size, watermark


@compiled
def add_labels(begin, rows, bucket, is_fraud, meta, times, values, heap, dirty, watermark, kept, events_max):
    """Count labels begin.. in their buckets; stop where the arena is full. Returns (labels done, watermark)."""
    guard = np.int64(0)
    for k in range(begin, rows.size):
        if (k - begin) % TOUCH_RECORDS == 0:
            guard += touch(rows, k, meta, times, values)
        b, row = bucket[k], rows[k]
        mark = max(watermark, b)
        if b > mark - kept:
            one = 1 + (np.int64(is_fraud[k]) << 32)
            start = meta[row, START]
            slot = start + meta[row, LENGTH] - 1
            while slot >= start and times[slot] > b:
                slot -= 1
            if slot >= start and times[slot] == b:
                values[slot] += one
            elif insert(meta, row, b, one, False, mark - kept, events_max, times, values, heap) < 0:
                return k, watermark
            dirty[row] = 1
        watermark = mark
    heap[GUARD] = guard
    return rows.size, watermark


@compiled
def terminal_features(
    rows, event_time, granularity, delay, meta, times, values, floor, windows, hours_per_bucket, recent, events_max,
    out, column,
):  # fmt: skip
    """Write the labelled history of each terminal as known at its cutoff (delay, floor, windows in buckets)."""
    mask = (1 << 32) - 1
    guard = np.int64(0)
    for k in range(rows.size):
        if k % TOUCH_RECORDS == 0:
            guard += touch(rows, k, meta, times, values)
        row, end = rows[k], event_time[k] // granularity - delay
        first = 0
        slot = -1
        if row >= 0:
            first = meta[row, START] + max(meta[row, LENGTH] - events_max, 0)
            slot = meta[row, START] + meta[row, LENGTH] - 1
            if slot >= first and times[slot] > end:
                low, high = first, slot  # the first slot after `end` lies in [low, high]
                while low < high:
                    middle = (low + high) >> 1
                    if times[middle] > end:
                        high = middle
                    else:
                        low = middle + 1
                slot = low - 1
        latest = slot
        total = np.int64(0)
        at = column
        for w in range(windows.size):
            bound = max(end - windows[w], floor)
            while slot >= first and times[slot] > bound:
                total += values[slot]
                slot -= 1
            labelled = total & mask
            out[k, at] = labelled
            out[k, at + 1] = (total >> 32) / labelled if labelled > 0 else 0.0
            at += 2
        oldest = slot + 1
        since = windows[-1]
        quiet = labelled
        if total > mask:
            quiet = np.int64(0)
            fraud = latest
            while values[fraud] <= mask:
                quiet += values[fraud]
                fraud -= 1
            since = end - times[fraud]
        streak = np.int64(0)
        lasted = np.int64(0)
        slot = latest
        while slot >= oldest and values[slot] >> 32 == values[slot] & mask:
            streak += values[slot] & mask
            lasted = end - times[slot]
            slot -= 1
        genuine = end - times[slot] if slot >= oldest else windows[-1]
        wanted = recent
        last = 0.0
        slot = latest
        while wanted > 0 and slot >= oldest:
            count = values[slot] & mask
            used = min(wanted, count)
            last += used * ((values[slot] >> 32) / count)
            wanted -= used
            slot -= 1
        out[k, at] = since * hours_per_bucket
        out[k, at + 1] = last
        out[k, at + 2] = streak
        out[k, at + 3] = lasted * hours_per_bucket
        out[k, at + 4] = genuine * hours_per_bucket
        out[k, at + 5] = quiet
        out[k, at + 6] = (total >> 32) - streak
    return guard


@compiled
def update_sessions(
    begin, rows, items, event_time, is_retry, meta, times, values, heap, dirty, watermark, idle_ms, floor, out
):  # fmt: skip
    """Insert clicks begin.. in order, those that come `is_retry` only where they do not stand, and write what each saw.

    An item of -1 only looks. Clicks before `floor` are not seen. Stop where the arena is full. Returns (clicks done, watermark).
    """
    length = out.shape[1]
    guard = np.int64(0)
    for k in range(begin, rows.size):
        if (k - begin) % TOUCH_RECORDS == 0:
            guard += touch(rows, k, meta, times, values)
        t, item, row = event_time[k], items[k], rows[k]
        mark = max(watermark, t)
        limit = mark - idle_ms
        end = length
        first, slot = 0, -1
        if t >= limit:
            if meta[row, NEWEST] < limit:
                meta[row, LENGTH] = 0
                meta[row, NEWEST] = NEVER
            if item >= 0:
                slot = insert(meta, row, t, item, is_retry[k], NEVER, length, times, values, heap)
                if slot < 0:
                    return k, watermark
            else:
                meta[row, NEWEST] = max(meta[row, NEWEST], t)
                slot = meta[row, START] + meta[row, LENGTH] - 1
                while slot >= meta[row, START] and times[slot] > t:
                    slot -= 1
            dirty[row] = 1
            first = meta[row, START] + max(meta[row, LENGTH] - length, 0)
        if slot < first:  # late, or older than all that its row keeps
            end -= 1
            out[k, end] = item
        while slot >= first and times[slot] >= floor:
            end -= 1
            out[k, end] = values[slot]
            slot -= 1
        for j in range(end):
            out[k, j] = -1
        watermark = mark
    heap[GUARD] = guard
    return rows.size, watermark


@compiled
def mark_duplicates(begin, rows, time, hashes, meta, times, values, heap, dirty, watermark, kept, events_max, out):
    """Insert identities begin.. in order and mark repeats; stop where the arena is full. Returns (records done, watermark)."""
    guard = np.int64(0)
    for k in range(begin, rows.size):
        if (k - begin) % TOUCH_RECORDS == 0:
            guard += touch(rows, k, meta, times, values)
        t, identity, row = time[k], hashes[k], rows[k]
        mark = max(watermark, t)
        oldest = mark - kept
        first = meta[row, START] + max(meta[row, LENGTH] - events_max, 0)
        slot = meta[row, START] + meta[row, LENGTH] - 1
        while slot >= first and times[slot] > oldest and values[slot] != identity:
            slot -= 1
        if slot >= first and times[slot] > oldest:
            out[k] = True
        elif t > oldest:
            if insert(meta, row, t, identity, False, oldest, events_max, times, values, heap) < 0:
                return k, watermark
            dirty[row] = 1
        watermark = mark
    heap[GUARD] = guard
    return rows.size, watermark
