"""Pictures of the documents: `python -m tests.support.pictures flow` draws how a record travels.

SVG with a transparent ground, whose inks follow the reader's light or dark scheme.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import click

ROOT = Path(__file__).parents[2]
FLOW = ROOT / "streams" / "flow.svg"

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.small { font-size: 11.5px; fill: #59636e; }
.title { font-weight: 600; }
.box { fill: #f6f8fa; stroke: #818b98; }
.room { fill: none; stroke: #818b98; }
.once { fill: none; stroke: #0969da; stroke-width: 1.5; stroke-dasharray: 5 4; }
.note { font-size: 11.5px; fill: #0969da; }
.arrow { fill: none; stroke: #59636e; stroke-width: 1.4; marker-end: url(#tip); }
#tip path { fill: #59636e; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .small { fill: #9198a1; }
  .box { fill: #151b23; stroke: #656c76; }
  .room { stroke: #656c76; }
  .once { stroke: #4493f8; }
  .note { fill: #4493f8; }
  .arrow { stroke: #9198a1; }
  #tip path { fill: #9198a1; }
}
"""


def box(x: float, y: float, width: float, height: float, title: str, *below: str) -> str:
    """Return a box with a title and lines of small text, all centred."""
    middle = x + width / 2
    top = y + height / 2 - 8 * len(below) + 4.5
    lines = [f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{height}" rx="5"/>']
    lines.append(f'<text class="title" x="{middle}" y="{top}" text-anchor="middle">{escape(title)}</text>')
    for number, text in enumerate(below, 1):
        lines.append(
            f'<text class="small" x="{middle}" y="{top + 16 * number}" text-anchor="middle">{escape(text)}</text>'
        )
    return "\n".join(lines)


def words(x: float, y: float, text: str, kind: str = "small", anchor: str = "middle") -> str:
    """Return one line of text."""
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def arrow(*points: tuple[float, float]) -> str:
    """Return an arrow through points."""
    path = " L ".join(f"{x} {y}" for x, y in points)
    return f'<path class="arrow" d="M {path}"/>'


def flow_picture() -> str:
    """Return the picture of a record's way: topics, worker, topics, and the state topics below."""
    parts = [
        words(80, 22, "Kafka"),
        box(4, 40, 152, 44, "transactions"),
        box(4, 100, 152, 44, "clickstream"),
        box(4, 160, 152, 44, "transaction-labels"),
        '<rect class="room" x="190" y="30" width="470" height="184" rx="8"/>',
        words(425, 22, "worker: one process, any number of them"),
        box(206, 72, 100, 84, "decode", "validate, or", "set aside"),
        box(326, 72, 100, 84, "features", "histories in", "event time"),
        box(446, 72, 100, 84, "model", "torch, one", "forward pass"),
        box(566, 72, 80, 84, "policy", "thresholds", "or rules"),
        words(425, 54, "micro-batches over all partitions: the next one starts when the device is free"),
        words(773, 22, "Kafka"),
        box(700, 40, 146, 44, "fraud-decisions"),
        box(700, 100, 146, 44, "recommendations"),
        box(700, 160, 146, 44, "dead-letters"),
        arrow((156, 62), (170, 62), (170, 106), (203, 106)),
        arrow((156, 122), (203, 122)),
        arrow((156, 182), (170, 182), (170, 138), (203, 138)),
        *(arrow((x, 114), (x + 17, 114)) for x in (306, 426, 546)),
        arrow((646, 106), (680, 106), (680, 62), (697, 62)),
        arrow((646, 122), (697, 122)),
        arrow((256, 156), (256, 172), (680, 172), (680, 182), (697, 182)),
        box(286, 252, 180, 44, "state topics", "compacted, by partition"),
        arrow((356, 156), (356, 249)),
        arrow((396, 252), (396, 159)),
        words(346, 236, "checkpoint", anchor="end"),
        words(406, 236, "restore", anchor="start"),
        '<rect class="once" x="676" y="30" width="176" height="266" rx="8"/>',
        box(700, 236, 146, 44, "input offsets"),
        arrow((660, 200), (668, 200), (668, 258), (697, 258)),
        words(764, 312, "one transaction: exactly once", "note"),
    ]
    body = "\n".join(parts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 862 322" role="img" aria-label="Three input topics are read'
        " by workers, which decode, build features, run a model and apply a policy; outputs and input offsets are one"
        f' transaction; state is kept in compacted topics.">\n<style>{STYLE}</style>\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M 0 0 L 8 4 L 0 8 z"/></marker></defs>\n{body}\n</svg>\n'
    )


@click.command(help=__doc__)
@click.argument("picture", type=click.Choice(["flow"]))
def main(picture: str) -> None:
    """Draw one picture."""
    FLOW.write_text(flow_picture())


if __name__ == "__main__":
    main()
