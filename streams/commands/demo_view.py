"""The demo on the screen: a live page on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

from rich.console import Console, Group
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from streams.commands.demo_tally import Tally
from streams.commands.watch import COLOURS, score_text, strategy_text, strongest_reasons
from streams.contract.events import DeadLetter, Decision, Recommendation

REFRESH_S: Final = 0.25
LINE_S: Final = 5.0
RATE_WINDOW_S: Final = 2.0
ITEMS_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class _Figures:
    in_per_s: float
    out_per_s: float
    p50_ms: float | None
    p99_ms: float | None


class DemoView:
    """Shows a tally while a demo runs.

    Args:
        tally: what to show.
        title: the cluster and the number of workers.
        duration_s: planned length; 0: until Ctrl-C.
        console: where it is shown.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        tally: Tally,
        title: str,
        duration_s: float,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tally = tally
        self._title = title
        self._duration_s = duration_s
        self._console = console
        self._clock = clock
        self._started = clock()
        self._shown = 0.0
        self._phase = ""
        self._totals: deque[tuple[float, int, int]] = deque()
        self._live = Live(console=console, screen=True, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def tick(self, *, phase: str) -> None:
        """Show the tally, if an update is due or another phase has begun."""
        now = self._clock()
        if phase == self._phase and now - self._shown < (REFRESH_S if self._live is not None else LINE_S):
            return
        self._shown, self._phase = now, phase
        figures = self._figures(now)
        if self._live is not None:
            self._live.update(self._page(now, figures, phase), refresh=True)
        else:
            self._print_lines(now, figures, phase)

    def _figures(self, now: float) -> _Figures:
        tally = self._tally
        self._totals.append((now, tally.sent.total(), tally.answered.total()))
        while len(self._totals) > 2 and self._totals[1][0] <= now - RATE_WINDOW_S:
            self._totals.popleft()
        then, sent, answered = self._totals[0]
        seconds = max(now - then, 1e-9)
        _, sent_now, answered_now = self._totals[-1]
        p50, p99 = tally.recent_percentiles(0.5, 0.99)
        return _Figures((sent_now - sent) / seconds, (answered_now - answered) / seconds, p50, p99)

    def _page(self, now: float, figures: _Figures, phase: str) -> Layout:
        tally = self._tally
        elapsed = now - self._started
        until = f" of {_clock_text(self._duration_s)}" if self._duration_s else ", Ctrl-C ends"
        layout = Layout()
        layout.split_column(Layout(name="head", size=6), Layout(name="body"), Layout(name="foot", size=3))
        numbers = Table.grid(expand=True, padding=(0, 2))
        for _ in range(7):
            numbers.add_column(justify="center")
        heads = ("in /s", "out /s", "waiting", "p50 ms", "p99 ms", "decisions", "slates")
        with tally.lock:
            values = (
                f"{figures.in_per_s:,.0f}",
                f"{figures.out_per_s:,.0f}",
                f"{tally.pending:,}",
                _ms(figures.p50_ms),
                _ms(figures.p99_ms),
                f"{tally.decisions.total():,}",
                f"{tally.answered['clickstream']:,}",
            )
            counts = Text.assemble(
                *((f"  {tally.decisions[word]:,} {word} ", colour) for word, colour in COLOURS.items()),
                (f"   {tally.repeated:,} repeated   {tally.dead_letters:,} dead letters", "dim"),
                (f"   {tally.degraded:,} degraded" if tally.degraded else "", "red"),
            )
            held, approved = list(tally.held_up), list(tally.approved)
            slates, dead = list(tally.recommendations), tally.last_dead_letter
        numbers.add_row(*(Text(head, style="dim") for head in heads))
        numbers.add_row(*(Text(value, style="bold") for value in values))
        title = f"streams demo: {self._title}   {phase}   {_clock_text(elapsed)}{until}"
        layout["head"].update(Panel(Group(numbers, Text(), counts), title=title, border_style="cyan"))
        body = Layout()
        body.split_row(Layout(name="left", ratio=3), Layout(name="right", ratio=2))
        body["left"].update(Panel(_decisions(held, approved), title="decisions"))
        body["right"].update(Panel(_slates(slates), title="recommendations"))
        layout["body"].update(body)
        layout["foot"].update(Panel(_dead_letter(dead), title="latest dead letter", border_style="dim"))
        return layout

    def _print_lines(self, now: float, figures: _Figures, phase: str) -> None:
        tally = self._tally
        with tally.lock:
            counts = ", ".join(f"{tally.decisions[word]:,} {word}" for word in COLOURS)
            line = (
                f"{now - self._started:5.0f} s  {phase:<8} "
                f"in {figures.in_per_s:>7,.0f}/s  out {figures.out_per_s:>7,.0f}/s  waiting {tally.pending:,}  "
                f"p50 {_ms(figures.p50_ms)} ms  p99 {_ms(figures.p99_ms)} ms  {counts}, "
                f"{tally.answered['clickstream']:,} slates, {tally.dead_letters:,} dead letters"
                + (f", {tally.degraded:,} degraded" if tally.degraded else "")
            )
            held = list(tally.held_up)[-1:]
            slates = list(tally.recommendations)[-1:]
        self._console.print(line, highlight=False, soft_wrap=True)
        for event in held:
            reason = "".join(strongest_reasons(event)[:1])
            self._console.print(
                f"         {event.decision} {score_text(event, 3)} card {event.card_id} amount {event.amount:.2f}  {reason}",
                highlight=False,
                soft_wrap=True,
            )
        for slate in slates:
            items = ", ".join(item.item_id for item in slate.items[:ITEMS_SHOWN])
            self._console.print(f"         {slate.session_id} -> {items}", highlight=False, soft_wrap=True)


def _decisions(held: list[Decision], approved: list[Decision]) -> Table:
    table = Table(expand=True, box=None, pad_edge=False)
    for name, options in (
        ("decision", {"width": 8}),
        ("score", {"width": 6, "justify": "right"}),
        ("card", {"no_wrap": True}),
        ("amount", {"justify": "right"}),
        ("strongest reason", {"no_wrap": True, "ratio": 1}),
    ):
        table.add_column(name, **_any(options))
    for event in [*reversed(held), *reversed(approved)]:
        reason = "".join(strongest_reasons(event)[:1])
        style = COLOURS[event.decision]
        table.add_row(
            Text(event.decision, style=style),
            score_text(event, 3),
            event.card_id,
            f"{event.amount:,.2f}",
            Text(reason, style="dim"),
        )
    return table


def _slates(slates: list[Recommendation]) -> Table:
    table = Table(expand=True, box=None, pad_edge=False)
    table.add_column("session", no_wrap=True)
    table.add_column("strategy", width=10)
    table.add_column("items", no_wrap=True, ratio=1)
    for event in reversed(slates):
        items = ", ".join(item.item_id for item in event.items[:ITEMS_SHOWN])
        table.add_row(event.session_id, Text(strategy_text(event), style="dim"), items)
    return table


def _dead_letter(event: DeadLetter | None) -> Text:
    if event is None:
        return Text("none", style="dim")
    origin = f"{event.topic}[{event.partition}]@{event.offset} "
    return Text.assemble(origin, (event.code, "red"), f"  {event.message}", no_wrap=True, overflow="ellipsis")


def _any(options: dict[str, Any]) -> dict[str, Any]:
    return options


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _clock_text(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
