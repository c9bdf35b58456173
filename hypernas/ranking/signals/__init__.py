"""Signals of a network's worth that need no training, behind one table.

A probe measures one or a few signals in one go, on one network with one set of weights (``Subject``); which weights, at
random or emitted by the GHN, is the table's business. Every signal is written so that higher is better, or, where the
literature knows no better (``grasp``), as its authors use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hypernas.errors import UsageError, close_matches
from hypernas.ranking.signals.activations import activations, zen
from hypernas.ranking.signals.gradients import grasp, jacobians, saliency, synflow, zico
from hypernas.ranking.signals.losses import adapted_loss, val_loss
from hypernas.ranking.signals.subject import Images, Subject, block_outputs, is_constant

__all__ = ["SIGNALS", "Images", "Probe", "Signal", "Subject", "block_outputs", "is_constant", "plan", "signal"]

Probe = Callable[[Subject], dict[str, float]]


@dataclass(frozen=True)
class Signal:
    """One column.

    Attributes:
        name: the column; ends in ``_emitted`` where a signal that is known at random weights is taken at emitted ones.
        key: the probe's name for it.
        probe: measures it; signals of one probe and one kind of weights share a pass. None: read off the graph.
        weights: ``random``, ``emitted`` or ``none``.
        source: where it comes from.
    """

    name: str
    key: str
    probe: Probe | None
    weights: str
    source: str


def _table() -> dict[str, Signal]:
    emitted_only = [
        ("ghn_loss", val_loss, "minus val loss with emitted weights; Zhang et al. 2019"),
        ("ghn_accuracy", val_loss, "val accuracy with emitted weights; Zhang et al. 2019"),
        ("ghn_margin", val_loss, "mean margin of the logits with emitted weights"),
        ("ghn_loss_adapted", adapted_loss, "minus val loss after 8 steps of SGD from emitted weights"),
    ]
    anywhere = [
        ("naswot", activations, "Mellor et al. 2021"),
        ("jacov", jacobians, "Mellor et al. 2020"),
        ("jacov_stem", jacobians, "after Mellor et al. 2020: of the first block's output, averaged over windows"),
        ("synflow", synflow, "Tanaka et al. 2020"),
        ("snip", saliency, "Lee et al. 2019"),
        ("grad_norm", saliency, "Abdelfattah et al. 2021"),
        ("fisher", saliency, "Theis et al. 2018"),
        ("grasp", grasp, "Wang et al. 2020"),
        ("zen", zen, "Lin et al. 2021"),
        ("zico", zico, "Li et al. 2023"),
        ("expressivity", activations, "AZ-NAS, Lee and Ham 2024"),
        ("progressivity", activations, "AZ-NAS, Lee and Ham 2024"),
        ("trainability", jacobians, "AZ-NAS, Lee and Ham 2024"),
    ]
    of_graph = [
        ("params", "log of the parameters of the network at full scale"),
        ("flops", "log of the multiply-accumulates at full scale; AZ-NAS' complexity"),
    ]
    signals = [Signal(name, name, probe, "emitted", source) for name, probe, source in emitted_only]
    signals += [Signal(name, name, probe, "random", source) for name, probe, source in anywhere]
    signals += [Signal(f"{name}_emitted", name, probe, "emitted", source) for name, probe, source in anywhere]
    signals += [Signal(f"log_{name}", name, None, "none", source) for name, source in of_graph]
    return {signal.name: signal for signal in signals}


SIGNALS: dict[str, Signal] = _table()


def signal(name: str) -> Signal:
    """By name; raises ``UsageError`` for an unknown one."""
    if name not in SIGNALS:
        raise UsageError("A signal is one that is known", value=name, remedy=close_matches(name, SIGNALS))
    return SIGNALS[name]


def plan(names: Iterable[str]) -> dict[tuple[Probe, str], list[Signal]]:
    """The passes that measure these signals: (probe, weights) -> its signals."""
    passes: dict[tuple[Probe, str], list[Signal]] = {}
    for name in names:
        one = signal(name)
        if one.probe is not None:
            passes.setdefault((one.probe, one.weights), []).append(one)
    return passes
