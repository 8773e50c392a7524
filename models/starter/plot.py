"""The curve of a run, as a small SVG that needs nothing to be drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT, MARGIN = 720, 360, 48
_POINTS = 300
_INK, _LOSS, _HELD_OUT = "#444", "#4472c4", "#c0504d"
_BITS_A_NAT = 1.4427


def loss_plot(lines: Sequence[dict[str, Any]], step_tokens: int) -> str:
    """Return the loss of the steps (averaged to some 300 points) in bits a token, and the held-out bits a byte."""
    losses = _averaged(
        [(line["step"] * step_tokens / 1e6, line["loss"] * _BITS_A_NAT) for line in lines if "loss" in line]
    )
    measured = [(line["step"] * step_tokens / 1e6, line["bits_per_byte"]) for line in lines if "bits_per_byte" in line]
    right = max((x for x, _ in [*losses, *measured]), default=1.0)
    top = max((y for _, y in [*losses, *measured]), default=1.0)

    def place(x: float, y: float) -> str:
        across, up = x / right * (WIDTH - 2 * MARGIN), y / top * (HEIGHT - 2 * MARGIN)
        return f"{MARGIN + across:.1f},{HEIGHT - MARGIN - up:.1f}"

    curve = " ".join(place(x, y) for x, y in losses)
    other = " ".join(place(x, y) for x, y in measured)
    quarters = [part / 4 for part in range(5)]
    marks = [_mark(place(right * part, 0), 18, f"{right * part:.3g} M") for part in quarters]
    marks += [_mark(place(0, top * part), 0, f"{top * part:.2g}") for part in quarters[1:]]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
            f"<style>text {{ font: 12px sans-serif; fill: {_INK} }}</style>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<polyline points="{curve}" fill="none" stroke="{_LOSS}"/>',
            f'<polyline points="{other}" fill="none" stroke="{_HELD_OUT}" stroke-width="2"/>',
            *marks,
            f'<text x="{MARGIN + 8}" y="20" style="fill: {_LOSS}">training loss, bits a token</text>',
            f'<text x="{MARGIN + 8}" y="36" style="fill: {_HELD_OUT}">held out, bits a byte</text>',
            f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">tokens</text>',
            "</svg>\n",
        ]
    )


def _mark(place: str, below: int, text: str) -> str:
    """Return the text of a place on an axis: below the one across, left of the one up."""
    across, down = map(float, place.split(","))
    left, anchor = (0, "middle") if below else (-8, "end")
    return f'<text x="{across + left:.1f}" y="{down + below:.1f}" text-anchor="{anchor}">{text}</text>'


def _averaged(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return means of neighbours, about `_POINTS` of them."""
    size = max(1, len(points) // _POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
