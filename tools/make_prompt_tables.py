#!/usr/bin/env python3
"""Writes src/video/prompt_clean_tables.inc: HTML5 entity names from Python's html.entities, and the Unicode data of
canonical composition and of half- and full-width forms from its unicodedata.

    python3 tools/make_prompt_tables.py > src/video/prompt_clean_tables.inc
"""

import html.entities
import unicodedata


def rows(items, width=118):
    """Comma-separated items, as many per line as fit."""
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > width:
            print(line)
            line = "   "
        line += f" {item},"
    print(line)


def entities():
    table = []
    for name, text in html.entities.html5.items():
        if name.endswith(";"):
            codes = [ord(c) for c in text] + [0]
            bare = name[:-1] in html.entities.html5
            assert not bare or html.entities.html5[name[:-1]] == text
            table.append((name[:-1], codes[0], codes[1], int(bare)))
    names = {row[0] for row in table}
    assert all(name.rstrip(";") in names for name in html.entities.html5)
    print("/* Sorted by name: name without semicolon, one or two code points, whether it stands without semicolon. */")
    print("static const entity entities[] = {")
    rows('{"%s", 0x%x, 0x%x, %d}' % row for row in sorted(table, key=lambda row: row[0].encode()))
    print("};\n")


def composition():
    def pair(code):
        text = unicodedata.decomposition(chr(code))
        if not text or text.startswith("<") or 0xAC00 <= code <= 0xD7A3:
            return None
        codes = [int(part, 16) for part in text.split()]
        return codes[0], codes[1] if len(codes) == 2 else 0

    decompositions = [(code, *pair(code)) for code in range(0x110000) if pair(code)]
    print("/* Canonical decompositions, one step, sorted by code point; Hangul is computed. */")
    print("static const decomposition decompositions[] = {")
    rows("{0x%x, 0x%x, 0x%x}" % row for row in decompositions)
    print("};\n")
    composed = [
        (first, second, code)
        for code, first, second in decompositions
        if second and unicodedata.normalize("NFC", chr(first) + chr(second)) == chr(code)
    ]
    print("/* Indices into decompositions of the pairs that compose, sorted by pair. */")
    print("static const uint16_t compositions[] = {")
    index = {row[0]: i for i, row in enumerate(decompositions)}
    rows(str(index[code]) for first, second, code in sorted(composed))
    print("};\n")
    classes = []
    for code in range(0x110000):
        value = unicodedata.combining(chr(code))
        if value and classes and classes[-1][2] == value and classes[-1][1] == code - 1:
            classes[-1][1] = code
        elif value:
            classes.append([code, code, value])
    print("/* Canonical combining classes other than 0: first, last, class. */")
    print("static const combining_range combining_ranges[] = {")
    rows("{0x%x, 0x%x, %d}" % tuple(row) for row in classes)
    print("};\n")


def widths():
    first, last = 0xFF5F, 0xFFEE
    table = []
    for code in range(first, last + 1):
        other = unicodedata.normalize("NFKC", chr(code))
        table.append("0x%x" % (ord(other) if len(other) == 1 else code))  # U+FFE3 is a space and a macron
    assert all(unicodedata.normalize("NFKC", chr(c)) == chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F))
    print("/* What the half- and full-width forms U+FF5F ... U+FFEE stand for. */")
    print("static const uint16_t width_forms[] = {")
    rows(table)
    print("};")


print(f"/* Made by tools/make_prompt_tables.py from Unicode {unicodedata.unidata_version}; do not edit. */")
print("/* clang-format off */")
entities()
composition()
widths()
