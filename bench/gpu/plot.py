#!/usr/bin/env python3
"""Draws a table of bench_cuda as SVG: what a kept pair costs by N, and by density.

    python3 bench/gpu/plot.py bench/results/attend-h200.csv docs/images/attend-h200

writes PREFIX-n.svg (the rate per kept pair, as a share of dense attention's, against keys per tile) and
PREFIX-density.svg (times as fast as dense attention, against density).
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from report_common import line_chart, read_table


def figures(path):
    """Rows of sm90 beside a dense run: tokens, m, n, density, group, and the speed against dense."""
    for row in read_table(path)[1]:
        if row["variant"] == "sm90" and int(row["m"]) > 0 and float(row["to_dense"]) > 0:
            yield (int(row["tokens"]), int(row["m"]), int(row["n"]), float(row["density"]), int(row["group"]),
                   float(row["to_dense"]))


def near(density, wanted):
    return abs(density - wanted) < 0.02 * wanted + 0.001


def by_tile(rows):
    series = {}
    for tokens, m, n, density, group, speed in rows:
        for wanted in (0.5, 0.3, 0.1):
            if near(density, wanted) and group == 0 and m == 128:
                series.setdefault(f"{wanted:g}, {tokens} tokens", []).append((n, density * speed))
    return {name: points for name, points in series.items() if len(points) > 1}


def by_density(rows):
    series = {}
    for tokens, m, n, density, group, speed in rows:
        if n == 1 and group == 0:
            series.setdefault(f"M = {m}, {tokens} tokens", []).append((density, speed))
            series.setdefault("best: 1 / density", []).append((density, 1 / density))
    return {name: sorted(set(points)) for name, points in series.items() if len(points) > 1}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    rows = list(figures(sys.argv[1]))
    charts = {"n": line_chart("Rate per kept pair at M = 128, as a share of dense attention's", "keys per tile, N",
                              "share of the dense rate", by_tile(rows)),
              "density": line_chart("Single keys: times as fast as dense attention", "density: kept share of the keys",
                                    "times as fast", by_density(rows), y_log=True)}
    for name, chart in charts.items():
        if chart is None:
            sys.exit(f"{sys.argv[1]}: nothing to draw against {name}")
        pathlib.Path(f"{sys.argv[2]}-{name}.svg").write_text(chart, encoding="utf-8")


if __name__ == "__main__":
    main()
