#!/usr/bin/env python3
"""Runs `fgattn bench attend` over densities, tiles and patterns, and writes what it measured as CSV.

    python3 bench/sweep_attend.py --fgattn build/cli/fgattn --csv bench/results/FILE.csv [-- --dtype bf16 --threads 2 ...]

Arguments after -- go to every run. Runs are short and the list is walked `--passes` times, so that a machine that changes
under way changes every point alike; the median of the passes is written.
"""
import argparse
import csv
import datetime
import itertools
import json
import statistics
import subprocess
import sys

DENSITIES = (1.0, 0.5, 0.3, 0.1, 0.05)
CASES = ((1, "random"), (1, "runs"), (4, "random"), (16, "random"), (64, "blocks"))  # tile, pattern
LABELS = ("variant", "dtype", "pattern", "seq", "heads", "head_dim", "block", "tile", "remainder", "threads")
FIGURES = ("density", "time_s", "gflops_effective", "peak_gflops", "fraction_of_peak", "fraction_with_summaries",
           "dense_fraction_of_peak", "speedup_vs_dense", "speed_vs_without", "clock_ghz", "peak_of_counted",
           "processor_share")


def machine():
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown"


def bench(program, arguments):
    done = subprocess.run([program, "bench", "attend", *arguments, "--json", "-"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr.strip() or f"{program} failed")
    return json.loads(done.stdout)


def middle(results, name):
    values = [r[name] for r in results if r[name] is not None]
    return f"{statistics.median(values):.5g}" if values else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fgattn", required=True, help="the program")
    parser.add_argument("--csv", required=True)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("passed", nargs="*", help="after --: for every run")
    options = parser.parse_args()
    points = list(itertools.product(DENSITIES, CASES))
    results = {point: [] for point in points}
    for _ in range(options.passes):
        for density, (tile, pattern) in points:
            results[density, (tile, pattern)].append(bench(options.fgattn, [
                "--density", str(density), "--tile", str(tile), "--pattern", pattern, "--rounds", "3", *options.passed]))
    with open(options.csv, "w", newline="") as file:
        file.write(f"# machine: {machine()}\n# date: {datetime.date.today()}\n"
                   f"# command: sweep_attend.py {' '.join(sys.argv[1:])}\n")
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(LABELS + FIGURES)
        for found in results.values():
            rows.writerow([found[0][n] for n in LABELS] + [middle(found, n) for n in FIGURES])


if __name__ == "__main__":
    main()
