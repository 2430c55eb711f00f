"""Draws the summary: for each line of it a bar for each system, as SVG that is legible on a light
and on a dark background.

    bench/chart.py RESULTS.json > CHART.svg
"""

import json
import sys
from xml.sax.saxutils import escape

from lab import name_of

SYSTEMS = ("plain", "litestream", "litestream-0.5", "sqlstream")
COLUMNS, PANEL, GAP, BAR, TITLE, LABEL, VALUE = 2, 470, 40, 17, 24, 128, 92
STYLE = """
  .back { fill: #ffffff } text { fill: #1f2328; font: 12px system-ui, sans-serif }
  .title { font-weight: 600 } .small { fill: #59636e; font-size: 11px } .head { font-size: 16px; font-weight: 600 }
  .plain { fill: #8c959f } .litestream { fill: #d4762c } .litestream-0-5 { fill: #a05eb5 } .sqlstream { fill: #1f6feb }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117 } text { fill: #e6edf3 } .small { fill: #9198a1 }
    .plain { fill: #7d8590 } .litestream { fill: #e0904f } .litestream-0-5 { fill: #bd86d0 } .sqlstream { fill: #4c9aff }
  }"""


def text(x, y, content, kind="", anchor="start"):
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(content)}</text>'


def panel(line, x, y):
    """Its elements, and how high it is."""
    better = "more is better" if line["more_is_better"] else "less is better"
    parts = [text(x, y + 13, line["work"], "title"),
             text(x + PANEL, y + 13, better, "small", "end")]  # fmt: skip
    present = [system for system in SYSTEMS if system in line["values"]]
    most = max(line["values"][system] for system in present) or 1
    room = PANEL - LABEL - VALUE
    for number, system in enumerate(present):
        top = y + TITLE + number * BAR
        width = max(1, room * max(0, line["values"][system]) / most)
        parts += [
            text(x + LABEL - 8, top + 11, name_of(system), "", "end"),
            f'<rect x="{x + LABEL}" y="{top + 1}" width="{width:.1f}" height="{BAR - 5}" rx="2" '
            f'class="{system.replace(".", "-")}"/>',
            text(round(x + LABEL + width + 6, 1), top + 11, line["text"][system], "small"),
        ]
    return parts, TITLE + len(present) * BAR + 16


def heading(results):
    machine = results["machine"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux "
        f"{machine['kernel']}, {machine['filesystem']}",
        f"SQLite {machine['sqlite']}, MinIO on the same machine, sync interval 1 s, medians of "
        f"{results['settings']['runs']} runs, {machine['date'][:10]}, "
        f"load {machine['load_at_start']} to {machine['load_at_end']}",
    )


def draw(results):
    # One system alone is nothing to compare.
    lines = [line for line in results["summary"] if len(set(line["values"]) & set(SYSTEMS)) > 1]
    parts = [text(GAP, 34, "sqlstream beside plain SQLite and Litestream", "head")]
    parts += [text(GAP, 54 + 16 * row, said, "small") for row, said in enumerate(heading(results))]
    bottoms = [88] * COLUMNS
    for line in lines:
        column = bottoms.index(min(bottoms))
        drawn, height = panel(line, GAP + column * (PANEL + GAP), bottoms[column])
        parts += drawn
        bottoms[column] += height
    width, height = COLUMNS * (PANEL + GAP) + GAP, max(bottoms) + 10
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">\n<title>sqlstream beside plain SQLite and Litestream</title>\n'
        f"<style>{STYLE}\n</style>\n"
        f'<rect class="back" width="{width}" height="{height}" rx="6"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        sys.stdout.write(draw(json.load(file)))
