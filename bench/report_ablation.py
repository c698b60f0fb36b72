#!/usr/bin/env python3
"""docs/ablation.md from the table of bench_ablation, and, for video, a table of bench_policies.

  bench/report_ablation.py [--docs docs] [--videos POLICIES.csv] ABLATION.csv [LONGER.csv ...]

Further tables, of other clips, come after the first one's sections.

Needs Python alone.
"""

import argparse
import pathlib

from report_common import bootstrap, interval, line_chart, markdown, mean, number, read_table
from report_policies import by_contender, cost_text, values

INTRODUCTION = """# Ablation

What each ingredient of `fgdfs` is worth, whichever way it came out. Every variant chooses masks of its own on the same queries,
keys and values, taken from dense generations, at the density at which its realised cost (kept and summary pairs / all pairs) is
the one at the head of the column. The figures are the mean output error norm(O - O_dense) / norm(O_dense) over all calls, with
the standard error of that mean over calls; in brackets the multiple of the section's first row; then the recall, the kept share
of the exact attention weight. A star marks a cost that is more than 10 % off, because the variant cannot come nearer.

Made by `bench/bench_ablation` and `bench/report_ablation.py`.
"""


def cell_text(row, first):
    off = abs(row["cost"] / row["target_cost"] - 1) > 0.1
    ratio = row["error"] / first["error"] if first else 1
    return (f"{row['error']:.3f} ± {row['error_se']:.3f} ({ratio:.2f}x)" + (f" at {row['cost']:.3f}*" if off else "")), \
        f"{row['recall']:.3f}"


def section(name, rows):
    costs = sorted({row["target_cost"] for row in rows}, reverse=True)
    variants = list(dict.fromkeys((row["name"], row["policy"]) for row in rows))
    at = {(row["name"], row["target_cost"]): row for row in rows}
    lines = []
    for variant, policy in variants:
        cells = [at.get((variant, cost)) for cost in costs]
        texts = [cell_text(c, at.get((variants[0][0], cost))) if c else ("", "") for c, cost in zip(cells, costs)]
        lines.append([variant, f"`{policy}`"] + [t[0] for t in texts] + [t[1] for t in texts])
    head = ["", "policy"] + [f"error at {c:g}" for c in costs] + [f"recall at {c:g}" for c in costs]
    return f"\n## {name[0].upper()}{name[1:]}\n\n" + markdown(head, lines)


def read_rows(path):
    comment, rows = read_table(path)
    return comment, [{k: v if k in ("section", "name", "policy") else number(v) for k, v in row.items()} for row in rows]


def all_sections(rows):
    names = list(dict.fromkeys(row["section"] for row in rows))
    return "".join(section(name, [row for row in rows if row["section"] == name]) for name in names)


def video_section(path):
    comment, rows = read_table(path)
    table, lines = by_contender(rows), []
    policies = {row["contender"]: row["policy"] for row in rows}
    for (name, cost), cell in sorted(table.items(), key=lambda item: (-item[0][1], item[0][0])):
        if name != "dense-noise":
            lines.append([name, f"`{policies[name]}`", f"{cost:g}", cost_text(cell, cost),
                          interval(bootstrap(values(cell, "error"), mean), 3),
                          interval(bootstrap(values(cell, "psnr"), mean), 1), f"{mean(values(cell, 'ssim')):.3f}",
                          str(len(cell))])
    head = ["", "policy", "cost", "realised", "output error", "PSNR, dB", "SSIM", "prompts"]
    return f"\n## In video\n\nWhole generations against their dense twins: {comment.split(', ', 1)[-1]}.\n\n" + \
        markdown(head, lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--docs", type=pathlib.Path, default=pathlib.Path("docs"))
    parser.add_argument("--videos", type=pathlib.Path)
    parser.add_argument("--note", default="", help="a paragraph for the head of the page")
    parser.add_argument("--append", type=pathlib.Path, help="text for the end of the page: what corrections.py found")
    parser.add_argument("tables", type=pathlib.Path, nargs="+")
    arguments = parser.parse_args()
    comment, rows = read_rows(arguments.tables[0])
    text = INTRODUCTION + f"\nMeasured on {comment}.\n" + (f"\n{arguments.note}\n" if arguments.note else "")
    text += all_sections(rows)
    series = {}
    for row in rows:
        if row["section"] == "method":
            series.setdefault(row["name"], []).append((row["cost"], row["error"]))
    svg = line_chart("Output error of every method", "cost: share of all pairs, summaries included", "output error",
                     series, y_log=True)
    if svg:
        picture = pathlib.Path("images") / "ablation-method.svg"
        (arguments.docs / picture).parent.mkdir(parents=True, exist_ok=True)
        (arguments.docs / picture).write_text(svg, encoding="utf-8")
        text += f"\n![Output error of every method against cost]({picture})\n"
    for table in arguments.tables[1:]:
        longer_comment, longer = read_rows(table)
        text += f"\n# Another clip\n\nMeasured on {longer_comment}.\n" + all_sections(longer)
    if arguments.videos:
        text += video_section(arguments.videos)
    if arguments.append:
        text += "\n" + arguments.append.read_text(encoding="utf-8")
    (arguments.docs / "ablation.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
