"""Fit the thresholds of the scan and draw up its confusion table, from the scores that scan_confusion.py wrote.

    python experiments/scan_table.py scores.jsonl [MORE.jsonl ...] --out docs/results/scan-confusion.json [--calibrate]

Every poisoned set is judged with thresholds that were fitted without its family of poisons (all convolutions, all
class-wise noises, both BadNets are one family each), on sets from the other half of the images. Clean sets are judged
with the thresholds of each of these fits, and of the fit on all poisons; the worst counts. ``--calibrate`` writes the
last into ``puretransforms/scanning/calibration.json``, with a sentence on what was measured.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from puretransforms.scanning.calibration import fit_threshold
from puretransforms.scanning.detectors import DETECTORS, TRAINED
from puretransforms.scanning.detectors.base import Finding, wilson
from puretransforms.scanning.verdict import Verdict, judge

FAMILIES = {
    "CUDA": "convolution",
    "CUDA, reflected": "convolution",
    "VUDA": "convolution",
    "HUDA": "convolution",
    "class-wise sign": "class-wise noise",
    "class-wise uniform": "class-wise noise",
    "class-wise L2": "class-wise noise",
    "BadNets": "BadNets",
    "BadNets, checkerboard": "BadNets",
}
CONTROL = ("clean", "sample-wise noise")
CALIBRATION = Path(__file__).parents[1] / "puretransforms" / "scanning" / "calibration.json"


def family(poison: str) -> str:
    """What is left out of the fit together."""
    return FAMILIES.get(poison, poison)


def findings(row: dict, thresholds: dict[str, float] | None = None) -> list[Finding]:
    """The findings of one set; a detector without a threshold raises no alarm."""
    names, known = ("score", "error", "classes", "untested", "evidence"), DETECTORS | TRAINED
    out = []
    for record in row["findings"]:
        detector = known[record["name"]](threshold=(thresholds or {}).get(record["name"], float("inf")))
        out.append(Finding(detector, **{name: record[name] for name in names}))
    return out


def fit(rows: Iterable[dict], without: str | None = None) -> dict[str, float]:
    """Thresholds from the sets marked "fit", without one family."""
    clean: dict[str, list[float]] = {name: [] for name in DETECTORS}
    poisoned: dict[str, list[float]] = {name: [] for name in DETECTORS}
    for row in rows:
        poison = row["set"]["poison"]
        if row["set"]["part"] == "fit" and (poison in CONTROL or family(poison) != without):
            for found in (f for f in findings(row) if f.name in DETECTORS):
                (clean if poison in CONTROL else poisoned)[found.name].append(found.compared)
    scored = {name: detector for name, detector in DETECTORS.items() if clean[name]}
    return {name: round(fit_threshold(clean[name], poisoned[name], kind.gap), 5) for name, kind in scored.items()}


def verdict(row: dict, thresholds: dict[str, float]) -> Verdict:
    """What a scan with these thresholds says of the set."""
    return judge(findings(row, thresholds), looked_at=row["images"], total=None, measured={})


def share(hits: int, n: int) -> dict:
    """A share with its 95 % interval."""
    low, high = wilson(hits, n)
    return {"found": hits, "sets": n, "share": hits / n, "low": low, "high": high}


def cell(verdicts: list[Verdict]) -> dict:
    """One entry of the table."""
    alarms = Counter(name for v in verdicts for name in v.alarms)
    kinds = Counter(v.kind for v in verdicts)
    return share(sum(bool(v.alarms) for v in verdicts), len(verdicts)) | {"kinds": kinds, "alarms": alarms}


def tabulate(rows: list[dict]) -> dict:
    """Everything that is written to ``--out``."""
    tests = [row for row in rows if row["set"]["part"] == "test"]
    left_out = sorted({family(row["set"]["poison"]) for row in tests if not row["set"]["poison"].startswith("clean")})
    fits = {name: fit(rows, name) for name in left_out}
    final = fit(rows)
    poisons: dict[str, dict[str, list[Verdict]]] = {}
    for row in tests:
        about = row["set"]
        if not about["poison"].startswith("clean"):
            given = verdict(row, fits[family(about["poison"])])
            poisons.setdefault(about["poison"], {}).setdefault(f"{about['rate']:g}", []).append(given)
    clean = [row for row in tests if row["set"]["poison"] == "clean"]
    others = [row for row in tests if row["set"]["poison"].startswith("clean:")]
    fulls = [v for name, rates in poisons.items() if name not in CONTROL for v in rates.get("1", [])]
    return {
        "thresholds": final,
        "thresholds_without": fits,
        "clean": cell([verdict(row, final) for row in clean]),
        "clean_worst_fit": max((cell([verdict(row, f) for row in clean]) for f in fits.values()), key=_found),
        "clean_of_other_kinds": {
            name: cell([verdict(row, final) for row in others if row["set"]["poison"] == name])
            for name in dict.fromkeys(row["set"]["poison"] for row in others)
        },
        "poisons": {name: {r: cell(v) for r, v in rates.items()} for name, rates in poisons.items()},
        "fully_poisoned": cell(fulls),
        "images_a_set": sorted({row["images"] for row in tests}),
        "cpu_seconds_a_set": round(sum(row["cpu_seconds"] for row in tests) / len(tests), 2),
    }


def _found(entry: dict) -> int:
    return entry["found"]


def markdown(table: dict) -> str:
    """The table for people: sets with an alarm of sets scanned, and what most of them were called."""
    rates = ("1", "0.5", "0.1", "0.01")
    lines = ["| poison | 100 % | 50 % | 10 % | 1 % | called, at the highest rate |", "|---|---|---|---|---|---|"]
    for name, row in table["poisons"].items():
        counts = [f"{row[r]['found']}/{row[r]['sets']}" if r in row else "" for r in rates]
        called = next((row[r]["kinds"].most_common(1)[0][0] for r in rates if r in row), "")
        lines.append(f"| {name} | {' | '.join(counts)} | {called} |")
    for name, entry in {"clean": table["clean"], **table["clean_of_other_kinds"]}.items():
        lines.append(f"| {name} | {entry['found']}/{entry['sets']} | | | | {', '.join(entry['alarms'])} |")
    return "\n".join(lines)


def sentence(table: dict) -> str:
    """What the verdict quotes."""
    full, clean = table["fully_poisoned"], table["clean"]
    return (
        f"Measured on samples of 2,000 CIFAR-10 images with poisons that the thresholds had not seen: {full['found']} "
        f"of {full['sets']} wholly poisoned sets (of SIG: its whole class) raised an alarm, and {clean['found']} of "
        f"{clean['sets']} unpoisoned ones (at most {clean['high']:.1%} with 95 % confidence)."
    )


def misses(table: dict) -> dict[str, list[str]]:
    """By rate, the poisons that raised no alarm in at least one set, with the sets where they did."""
    out: dict[str, list[str]] = {}
    for rate in ("1", "0.5", "0.1", "0.01"):
        cells = {name: row[rate] for name, row in table["poisons"].items() if rate in row and name not in CONTROL}
        some = {name: cell for name, cell in cells.items() if cell["found"] < cell["sets"]}
        if some:
            out[rate] = [
                name if not cell["found"] else f"{name} (found in {cell['found']} of {cell['sets']})"
                for name, cell in some.items()
            ]
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--calibrate", action="store_true")
    args = parser.parse_args()
    rows = [json.loads(line) for path in args.scores for line in path.read_text().splitlines()]
    table = tabulate(rows)
    print(markdown(table))
    print(sentence(table))
    print(json.dumps(table["thresholds"]), f"worst fit: {_found(table['clean_worst_fit'])} of the clean sets")
    if args.out:
        args.out.write_text(json.dumps(table, indent=1) + "\n")
    if args.calibrate:
        made = {"by": "experiments/scan_table.py", "from": f"{len(rows)} sets of CIFAR-10 (scan_confusion.py)"}
        enough = table["clean"]["sets"] >= 100 and table["fully_poisoned"]["sets"] >= 20
        measured = {"words": sentence(table), "images": 2000, "misses": misses(table)} if enough else {}
        before = json.loads(CALIBRATION.read_text())["thresholds"]  # of detectors without scores here
        content = {"made": made, "thresholds": before | table["thresholds"], "measured": measured}
        CALIBRATION.write_text(json.dumps(content, indent=1) + "\n")
