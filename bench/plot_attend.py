#!/usr/bin/env python3
"""Draws a CSV of sweep_attend.py as SVG: the fraction of peak against density, one line per tile and pattern.

    python3 bench/plot_attend.py bench/results/FILE.csv docs/images/FILE.svg
"""
import csv
import sys
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 70, 190, 60, 60
COLOURS = ("#1f5fa8", "#c2571a", "#2c8a4b", "#8b4fa0", "#444444")
DASHES = ("", "6 4", "2 3", "8 3 2 3", "")


def read(path):
    with open(path) as file:
        notes = []
        line = file.readline()
        while line.startswith("#"):
            notes.append(line[1:].strip())
            line = file.readline()
        return notes, list(csv.DictReader([line, *file]))


def chart(notes, rows):
    densities = sorted({round(float(r["density"]), 2) for r in rows})
    lines = {}
    for r in rows:
        lines.setdefault((int(r["tile"]), r["pattern"]), {})[round(float(r["density"]), 2)] = float(r["fraction_of_peak"])
    step = (WIDTH - LEFT - RIGHT) / max(1, len(densities) - 1)
    x = {d: LEFT + i * step for i, d in enumerate(densities)}  # evenly spaced: the interesting ones are small

    def y(fraction):
        return TOP + (1 - fraction) * (HEIGHT - TOP - BOTTOM)

    first = rows[0]
    title = (f"{first['dtype']}, {first['variant']}: S = {first['seq']}, D = {first['head_dim']}, M = {first['block']}, "
             f"{first['threads']} thread{'s' if first['threads'] != '1' else ''}")
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
           f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>')
    yield f'<text x="{LEFT}" y="24" font-size="14">Kept work per second, as a fraction of the multiply-add peak</text>'
    yield f'<text x="{LEFT}" y="44" fill="#555">{escape(title)}; {escape(notes[0] if notes else "")}</text>'
    for tenth in range(0, 11, 2):
        yield (f'<line x1="{LEFT}" y1="{y(tenth / 10):.1f}" x2="{WIDTH - RIGHT}" y2="{y(tenth / 10):.1f}" stroke="#ddd"/>'
               f'<text x="{LEFT - 8}" y="{y(tenth / 10) + 4:.1f}" text-anchor="end">{tenth / 10:g}</text>')
    for d in densities:
        yield f'<text x="{x[d]:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{d:g}</text>'
    yield (f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 16}" text-anchor="middle">density: '
           f'share of the keys that a block of queries keeps</text>')
    for i, ((tile, pattern), points) in enumerate(sorted(lines.items())):
        style = f'stroke="{COLOURS[i % 5]}" stroke-width="2" stroke-dasharray="{DASHES[i % 5]}"'
        path = " ".join(f"{x[d]:.1f},{y(points[d]):.1f}" for d in densities if d in points)
        yield f'<polyline fill="none" {style} points="{path}"/>'
        for d, fraction in points.items():
            yield f'<circle cx="{x[d]:.1f}" cy="{y(fraction):.1f}" r="3" fill="{COLOURS[i % 5]}"/>'
        at = TOP + 10 + 20 * i
        yield (f'<line x1="{WIDTH - RIGHT + 14}" y1="{at}" x2="{WIDTH - RIGHT + 44}" y2="{at}" {style}/>'
               f'<text x="{WIDTH - RIGHT + 50}" y="{at + 4}">N = {tile}, {pattern}</text>')
    yield "</svg>"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    notes, rows = read(sys.argv[1])
    with open(sys.argv[2], "w") as file:
        file.write("\n".join(chart(notes, rows)) + "\n")


if __name__ == "__main__":
    main()
