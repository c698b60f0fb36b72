#!/usr/bin/env python3
"""docs/evaluation.md and its plots from the tables of bench_policies.

  bench/report_policies.py [--docs docs] TABLE.csv ...

Intervals are 95 % bootstrap intervals over prompts; comparisons are paired, same prompt and seed. Needs Python alone.
"""

import argparse
import collections
import math
import pathlib

from report_common import bootstrap, interval, line_chart, markdown, mean, number, read_table

OURS = "fgdfs"
INTRODUCTION = """# Evaluation

Every preset against dense attention at equal cost, on the same prompts and seeds, on one timetable for all: the same steps are
dense, masks are renewed at the same steps, and no layer is kept dense. Each preset's own number (density, tau, threshold,
window, width) was calibrated, by bisection on one further prompt, to the cost in question; the cost that the videos then
realised is in the tables, and a star marks those that are more than 10 % off, mostly because a preset cannot do with so few or
so many pairs. Cost is (kept pairs + summary pairs) / all pairs, over sparse calls. Output error is
norm(O - O_dense) / norm(O_dense), recall the kept share of the exact attention weight, both over the measured calls; PSNR,
PSNR where the dense video moves, and SSIM are against the dense video. "Denoising" is the time of all steps of the dense
video of the same session, divided by that of the sparse one, without the measuring. Brackets are 95 % bootstrap intervals
over prompts.

Made by `bench/bench_policies` and `bench/report_policies.py`.
"""


def by_contender(rows):
    """{(contender, cost): {prompt: row of numbers}}, contenders in the order of the table, ours first."""
    table = collections.defaultdict(dict)
    for row in rows:
        numbers = {k: number(v) for k, v in row.items() if k not in ("contender", "policy", "dtype")}
        table[row["contender"], numbers["target_cost"]][int(row["prompt"])] = numbers
    return table


def names_of(table):
    names = list(dict.fromkeys(name for name, _ in table if name != "dense-noise"))
    return sorted(names, key=lambda name: name != OURS)


def values(cell, key):
    return [row[key] for row in cell.values() if not math.isnan(row[key])]


def speedup(row):
    return row["dense_denoise_s"] / row["denoise_s"]


def cost_text(cell, target):
    cost = mean(values(cell, "cost"))
    return f"{cost:.3f}" + ("*" if abs(cost / target - 1) > 0.1 else "")


def main_table(table, names, cost):
    rows = []
    for name in names:
        cell = table.get((name, cost))
        if not cell:
            continue
        figures = [bootstrap(values(cell, key), mean) for key in ("error", "psnr", "psnr_moving")]
        rows.append((figures[0][0], [f"`{name}`", cost_text(cell, cost), interval(figures[0], 3),
                     f"{mean(values(cell, 'recall')):.3f}", interval(figures[1], 1), interval(figures[2], 1),
                     f"{mean(values(cell, 'ssim')):.3f}", f"{mean([speedup(r) for r in cell.values()]):.2f}x",
                     str(len(cell))]))
    head = ["preset", "cost", "output error", "recall", "PSNR, dB", "moving PSNR, dB", "SSIM", "denoising", "prompts"]
    return markdown(head, [row for _, row in sorted(rows, key=lambda r: r[0])])


def paired(table, other, cost, key):
    ours, theirs = table.get((OURS, cost), {}), table.get((other, cost), {})
    pairs = [(ours[p][key], theirs[p][key]) for p in sorted(ours) if p in theirs]
    return [pair for pair in pairs if not any(map(math.isnan, pair))]


def ratio_of_means(pairs):
    theirs = sum(b for _, b in pairs)
    return sum(a for a, _ in pairs) / theirs if theirs > 0 else math.inf  # a mask that keeps everything has no error


def difference(pairs):
    return mean([a - b for a, b in pairs])


def comparison(table, names, costs):
    rows = []
    for name in names[1:]:
        for cost in costs:
            errors, psnr = paired(table, name, cost, "error"), paired(table, name, cost, "psnr")
            moving = paired(table, name, cost, "psnr_moving")
            if errors and psnr:
                rows.append([f"`{name}`", f"{cost:g}", interval(bootstrap(errors, ratio_of_means), 2),
                             interval(bootstrap(psnr, difference), 1),
                             interval(bootstrap(moving, difference), 1) if moving else "-",
                             f"{sum(a < b for a, b in errors)} of {len(errors)}"])
    return markdown([f"`{OURS}` against", "cost", "error, as a multiple of theirs", "PSNR, dB more", "moving PSNR, dB more",
                     "lower error on"], rows)


def noise_floor(table):
    cell = table.get(("dense-noise", 0.0), {})
    if not cell:
        return ""
    return (f"Noise floor: dense attention in the other arithmetic (f32 against bf16 products) on the same prompts differs by "
            f"PSNR {interval(bootstrap(values(cell, 'psnr'), mean), 1)} dB, moving PSNR "
            f"{interval(bootstrap(values(cell, 'psnr_moving'), mean), 1)} dB, SSIM {mean(values(cell, 'ssim')):.4f}.\n")


def plots(table, names, costs, stem, docs):
    pictures = []
    for key, title, unit, log in (("error", "Output error", "output error", True),
                                  ("psnr", "PSNR against the dense video", "PSNR, dB", False),
                                  ("psnr_moving", "PSNR where the dense video moves", "PSNR, dB", False),
                                  ("recall", "Recall", "recall", False),
                                  ("speedup", "Denoising, times as fast as dense", "speedup", False)):
        series = {}
        for name in names:
            cells = [table[name, cost] for cost in costs if (name, cost) in table]
            series[name] = [(mean(values(cell, "cost")), mean([speedup(r) for r in cell.values()]) if key == "speedup"
                             else mean(values(cell, key))) for cell in cells]
        svg = line_chart(title, "cost: share of all pairs, summaries included", unit, series, y_log=log)
        if svg:
            path = pathlib.Path("images") / f"evaluation-{stem}-{key.replace('_', '-')}.svg"
            (docs / path).parent.mkdir(parents=True, exist_ok=True)
            (docs / path).write_text(svg, encoding="utf-8")
            pictures.append(f"![{title} against cost]({path})\n")
    return "\n".join(pictures)


def section(path, docs):
    comment, rows = read_table(path)
    table = by_contender(rows)
    names, costs = names_of(table), sorted({cost for name, cost in table if name != "dense-noise"}, reverse=True)
    parts = [f"\n## {comment.split(', ', 1)[-1]}\n\nCheckpoint: {comment.split(', ')[0]}.\n", noise_floor(table)]
    parts += [f"### Cost {cost:g}\n\n" + main_table(table, names, cost) for cost in costs]
    if OURS in names and len(names) > 1:
        parts.append(f"### `{OURS}` against the others, paired\n\n" + comparison(table, names, costs))
    policies = dict.fromkeys((row["contender"], row["policy"]) for row in rows if row["contender"] not in ("dense-noise",))
    special = [f"`{name}` is `{policy}`" for name, policy in policies if name != policy]
    parts.append(("; ".join(special) + ".\n") if special else "")
    parts.append(plots(table, names, costs, path.stem, docs))
    return "\n".join(part for part in parts if part)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--docs", type=pathlib.Path, default=pathlib.Path("docs"))
    parser.add_argument("--note", default="", help="a paragraph for the head of the page")
    parser.add_argument("tables", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    text = INTRODUCTION + (f"\n{arguments.note}\n" if arguments.note else "")
    text += "".join(section(path, arguments.docs) for path in arguments.tables)
    (arguments.docs / "evaluation.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
