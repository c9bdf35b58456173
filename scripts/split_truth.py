"""Split a table of true accuracies by digest: one part to choose on, one to report on.

No architecture of one part computes the same function as one of the other. Parts are halves by the digest's first
eight hex digits: even ones are for choosing, odd ones for reporting.

    python scripts/split_truth.py truth.csv --space nasbench201 --part report > report.csv
"""

from __future__ import annotations

import argparse
import csv
import sys

from hypernas.spaces.finding import load_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("truth")
    parser.add_argument("--space", required=True)
    parser.add_argument("--part", choices=("choose", "report"), required=True)
    args = parser.parse_args()
    space = load_space(args.space)
    with open(args.truth, newline="") as file:
        rows = csv.DictReader(file)
        assert rows.fieldnames is not None
        table = csv.DictWriter(sys.stdout, rows.fieldnames, lineterminator="\n")
        table.writeheader()
        for row in rows:
            digest = space.replay(space.parse(row["architecture"])).digest
            if (int(digest[:8], 16) % 2 == 0) == (args.part == "choose"):
                table.writerow(row)


if __name__ == "__main__":
    main()
