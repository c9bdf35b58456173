"""How large activations get in deep chains with weights of a fresh GHN: every decoder with every normalisation.

Prints a markdown table: the smallest and the largest root mean square of a layer's output, over seeds 0 to 2. Chains
without norms come twice, with weights as emitted and as users get them, rescaled (hypernas.networks.scales).

    python scripts/stability_table.py [--seeds 3] [--decoder NAME ...]
"""

from __future__ import annotations

import argparse

from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders import DECODERS
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.normalization import NORMALIZATIONS
from hypernas.hypernet.stability import DEPTHS, activation_scales

# heading, whether with norms, whether rescaled
KINDS = (("no norms, as emitted", False, False), ("no norms, rescaled", False, True), ("norms", True, True))


def number(value: float) -> str:
    return f"{value:.2f}" if 0.01 <= value < 100 else f"{value:.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--decoder", nargs="+", choices=tuple(DECODERS), default=tuple(DECODERS))
    args = parser.parse_args()
    print("| decoder | normalization | chains | " + " | ".join(f"{depth} layers" for depth in DEPTHS) + " |")
    print("|---|---|---|" + "---|" * len(DEPTHS))
    for decoder in args.decoder:
        for normalization in NORMALIZATIONS:
            ghns = [GHN(GHNConfig(decoder=decoder, normalization=normalization), seed=s) for s in range(args.seeds)]
            for heading, norms, rescaled in KINDS:
                found = [activation_scales(ghn, norms=norms, rescaled=rescaled) for ghn in ghns]
                cells = []
                for depth in DEPTHS:
                    smallest, largest = (f(scales[depth][k] for scales in found) for k, f in enumerate((min, max)))
                    cells.append(f"{number(smallest)} to {number(largest)}")
                print(f"| {decoder} | {normalization} | {heading} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
