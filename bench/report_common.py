"""What the report scripts share: tables that begin with comments, paired bootstrap intervals, line charts as SVG."""

import csv
import html
import math
import random

COLOURS = ("#c0392b", "#1f4e79", "#2e8b57", "#8e44ad", "#d68910", "#117a8b", "#7f8c8d", "#6e2c00", "#b03a9e", "#5d6d1e",
           "#34495e", "#e74c3c", "#2980b9")


def read_table(path):
    """(comment, rows): the text after "# " of the first line, and one dict per complete row."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    comment = lines[0].lstrip("# ").strip()
    rows = [row for row in csv.DictReader(line for line in lines if not line.startswith("#")) if None not in row.values()]
    return comment, rows


def number(text):
    """Figures as C prints them; identical pictures count as 100 dB."""
    value = float(text)
    return 100.0 if value == math.inf else value


def mean(values):
    return sum(values) / len(values) if values else math.nan


def bootstrap(items, statistic, rounds=2000, share=0.95):
    """statistic(items) and its interval when whole items (here: prompts) are drawn again with replacement."""
    if len(items) < 2:
        return statistic(items), math.nan, math.nan
    draw = random.Random(1)
    values = sorted(statistic([draw.choice(items) for _ in items]) for _ in range(rounds))
    low = values[int((1 - share) / 2 * rounds)]
    return statistic(items), low, values[min(rounds - 1, int((1 + share) / 2 * rounds))]


def interval(figures, digits):
    value, low, high = figures
    if math.isnan(low):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def markdown(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _ticks(low, high, log):
    if log:
        marks = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 3, 5, 7)]
        return [m for m in marks if low * 0.999 <= m <= high * 1.001]
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-9)))
    step = step / 5 if (high - low) / step < 2 else step / 2 if (high - low) / step < 5 else step
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, int(high / step + 1e-9) + 1)]


class Axis:
    def __init__(self, values, begin, end, log):
        self.log = log
        low, high = min(values), max(values)
        margin = 1.08 if log else 0.05 * ((high - low) or 1)
        self.low, self.high = (low / margin, high * margin) if log else (low - margin, high + margin)
        self.begin, self.end = begin, end

    def at(self, value):
        a, b, v = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return self.begin + (v - a) / (b - a) * (self.end - self.begin)

    def ticks(self):
        return _ticks(self.low, self.high, self.log)


def line_chart(title, x_name, y_name, series, x_log=True, y_log=False):
    """series: {name: [(x, y), ...]}; an SVG text. Points are joined in the order of x."""
    series = {n: sorted(p for p in points if all(map(math.isfinite, p))) for n, points in series.items()}
    series = {n: [p for p in points if (p[0] > 0 or not x_log) and (p[1] > 0 or not y_log)] for n, points in
              series.items()}
    series = {n: points for n, points in series.items() if points}
    if not series:
        return None
    width, height, left, right, top, bottom = 760, 440, 70, 190, 40, 55
    x = Axis([p[0] for ps in series.values() for p in ps], left, width - right, x_log)
    y = Axis([p[1] for ps in series.values() for p in ps], height - bottom, top, y_log)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
           'font-family="sans-serif" font-size="12">', f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
           f'<text x="{left}" y="22" font-size="15" fill="#222222">{html.escape(title)}</text>']
    for tick in x.ticks():
        at = x.at(tick)
        out.append(f'<path d="M{at:.1f} {top}V{height - bottom}" stroke="#e5e5e5"/>'
                   f'<text x="{at:.1f}" y="{height - bottom + 18}" text-anchor="middle" fill="#444444">{tick:g}</text>')
    for tick in y.ticks():
        at = y.at(tick)
        out.append(f'<path d="M{left} {at:.1f}H{width - right}" stroke="#e5e5e5"/>'
                   f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#444444">{tick:g}</text>')
    out.append(f'<text x="{(left + width - right) / 2}" y="{height - 14}" text-anchor="middle" fill="#222222">'
               f'{html.escape(x_name)}</text><text transform="translate(18 {(top + height - bottom) / 2}) rotate(-90)" '
               f'text-anchor="middle" fill="#222222">{html.escape(y_name)}</text>')
    for i, (name, points) in enumerate(series.items()):
        colour, wide = COLOURS[i % len(COLOURS)], 3 if i == 0 else 1.6
        dash = ' stroke-dasharray="5 3"' if name.startswith("best") else ""
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{wide}"{dash}/>')
        out += [f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="3" fill="{colour}"/>' for a, b in points]
        row = top + 8 + 20 * i
        out.append(f'<path d="M{width - right + 16} {row}h22" stroke="{colour}" stroke-width="{wide}"{dash}/>'
                   f'<text x="{width - right + 44}" y="{row + 4}" fill="#222222">{html.escape(name)}</text>')
    return "\n".join(out + ["</svg>", ""])
