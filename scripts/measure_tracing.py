"""What tracing makes of networks that hypernas did not build, and how long it takes: the table in README.md.

Each family of ``tests/zoo``, at its small size: parameters, operations of its architecture, the share of its parameters
that the architecture has, seconds of torch's capture and of our conversion. One thread; the best of ``--repeats``.

    python scripts/measure_tracing.py --markdown
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from hypernas.errors import HypernasError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.tracing import Trace, trace
from hypernas.networks.interpreter import compile_program

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from zoo.family import Family, Unavailable, logits_of
from zoo.hub import HUB, NOT_HAD
from zoo.tables import CLASSICS, ORDINARY

HEADER = ("family", "input", "parameters", "operations", "coverage", "largest error", "capture s", "conversion s")


def coverage(module: torch.nn.Module, found: Trace) -> float:
    """The share of the values in used parameters that are parameters of the architecture."""
    every = {name: p.numel() for name, p in module.named_parameters() if name not in found.unused}
    covered = {spec.name for spec in found.architecture.parameters} | set(found.tied)
    return sum(n for name, n in every.items() if name in covered) / sum(every.values())


def error(family: Family, module: torch.nn.Module, found: Trace) -> float:
    """Of the architecture, after a way through JSON, on the module's weights; relative to the largest logit or 1."""
    program = compile_program(Architecture.from_json(found.architecture.to_json()))
    state, x = module.state_dict(), family.images(3)
    with torch.no_grad():
        wanted = logits_of(module(x))
        got = program.run(x, {name: state[name] for name in program.parameter_names}, running=state)
    return float((got - wanted).abs().max() / max(1.0, float(wanted.abs().max())))


def row(family: Family, repeats: int) -> Sequence[str]:
    shape = "x".join(map(str, family.input_shape))
    try:
        module = family.build()
        traces = [trace(module, input_shape=family.input_shape) for _ in range(repeats)]
    except (Unavailable, HypernasError) as reason:
        return family.name, shape, f"not traced: {reason}"
    found = traces[0]
    return (
        family.name,
        shape,
        f"{sum(p.numel() for p in module.parameters()):,}",
        f"{len(found.architecture.dataflow.operations):,}",
        f"{coverage(module, found):.0%}",
        f"{error(family, module, found):.0e}".replace("0e+00", "0"),
        f"{min(t.capture_s for t in traces):.2f}",
        f"{min(t.convert_s for t in traces):.2f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="print a table for README.md")
    parser.add_argument("--only", nargs="*", help="names of families")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    trace(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)), input_shape=(3, 2, 2))  # loads the exporter
    if not args.markdown:
        print(f"the first trace of a process takes {time.perf_counter() - start:.1f} s more")
    else:
        print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for family in (CLASSICS | ORDINARY | HUB).values():
        if args.only and family.name not in args.only:
            continue
        cells = row(family, args.repeats)
        line = "| " + " | ".join(cells) + " |" if args.markdown else "  ".join(f"{cell:>14}" for cell in cells)
        print(line, flush=True)
    for name, reason in NOT_HAD.items():
        if not args.markdown and not args.only:
            print(f"not had: {name}: {reason}")


if __name__ == "__main__":
    main()
