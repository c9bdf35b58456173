"""An evaluation from start to end: find the network, trace it, emit its weights, measure them, and log the story."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from hypernas.engine.options import check_writable
from hypernas.engine.records import EpochMetrics
from hypernas.errors import HypernasError, UsageError
from hypernas.evaluation.describing import describe
from hypernas.evaluation.finetuning import Start, finetune
from hypernas.evaluation.graph import TargetGraph, emit, graph_of
from hypernas.evaluation.images import at_shape
from hypernas.evaluation.keeping import write_report
from hypernas.evaluation.options import EvaluateOptions
from hypernas.evaluation.preparing import Setting, prepare
from hypernas.evaluation.report import EvaluationReport
from hypernas.evaluation.running import (
    Measured,
    OwnModule,
    Runnable,
    TracedNetwork,
    measure,
)
from hypernas.evaluation.saving import finetuned_path, save_tensors, state_of, write_architecture
from hypernas.interrupts import StopRequest, catch_interrupts
from hypernas.networks.network import random_weights
from hypernas.networks.starts import training_start
from hypernas.runtime import keep_freed_memory
from hypernas.tracking.backend import without_password
from hypernas.tracking.data_sets import data_facts
from hypernas.tracking.evaluations import EvaluationTracker

__all__ = ["EvaluationWatcher", "run_evaluation"]

N_SEEDS = 3  # random initialisations that the emitted weights are compared with
PROBES = 32  # train images that the scale of activations is checked on


class EvaluationWatcher(Protocol):
    """Hears of everything that goes on; the command line's one draws it."""

    def message(self, text: str) -> None: ...

    def evaluated(self, what: str, done: int, total: int) -> None: ...

    def training(self, init: str, metrics: EpochMetrics, epochs: int) -> None: ...


class _Silent:
    def message(self, text: str) -> None:
        pass

    def evaluated(self, what: str, done: int, total: int) -> None:
        pass

    def training(self, init: str, metrics: EpochMetrics, epochs: int) -> None:
        pass


def run_evaluation(
    target: object, options: EvaluateOptions, watcher: EvaluationWatcher | None = None
) -> EvaluationReport:
    """Evaluate a network with the weights that a GHN emits for it.

    Args:
        target: text as ``resolve_target`` reads it, or a module, class, function, networkx graph or Architecture.

    Raises:
        HypernasError: for whatever a user can cause; see ``hypernas.errors``.
        KeyboardInterrupt: after SIGINT or SIGTERM; what was measured by then is saved and logged.
    """
    options.check()
    keep_freed_memory()
    with catch_interrupts() as stop:
        heard = watcher or _Silent()
        check_writable(options.out)
        return _Evaluation(prepare(target, options, heard.message), options, heard, stop).run()


class _Evaluation:
    def __init__(
        self, setting: Setting, options: EvaluateOptions, watcher: EvaluationWatcher, stop: StopRequest
    ) -> None:
        self.setting, self.options, self.watcher, self.stop = setting, options, watcher, stop
        self.target, self.dataset, self.device = setting.target, setting.dataset, setting.device
        self.notes = setting.notes
        self.evaluation_id = f"{time.strftime('%y%m%d-%H%M')}-{os.urandom(3).hex()}"
        self.folder = options.out / "evaluations" / self.evaluation_id
        self.tracker = EvaluationTracker(
            options.out, experiment=options.experiment, tracking_uri=options.tracking_uri, say=watcher.message
        )

    def run(self) -> EvaluationReport:
        self.tracker.check_reachable()
        graph = self._trace()
        weights, emit_s = self._emit(graph)
        report = replace(
            describe(self.setting, graph),
            evaluation_id=self.evaluation_id,
            folder=self.folder,
            tracking_uri=without_password(self.tracker.tracking_uri),
        )
        report, network = self._measure(report, graph, weights, emit_s)
        if not self.options.finetune_epochs:
            weights.clear()  # a large network is held no more often than needed
        # MLflow takes seconds to import and to create a store, but what is timed has been done
        self.tracker.prepare()
        report = self._compare(report, graph, network)
        del network
        self._keep(report, graph)
        self.tracker.settle()
        status = "FINISHED"
        try:
            if self.options.finetune_epochs:
                report = self._finetune(report, graph, weights)
        except (KeyboardInterrupt, HypernasError) as error:
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            with contextlib.suppress(HypernasError, OSError):  # what is told is the first error
                self._log(report, graph, status)
            raise
        return self._log(report, graph, status)

    def _trace(self) -> TargetGraph:
        if self.target.module is not None:
            self.watcher.message(f"Tracing {self.target.name} ...")
        graph = graph_of(self.target, self.setting.shape, allow_uncovered=self.options.allow_uncovered)
        if self.options.finetune_epochs and not graph.is_runnable:
            raise UsageError(
                "A network is fine-tuned where all its operations are covered",
                value=", ".join(graph.uncovered_operations),
                remedy="Save the weights with --save, and train the module yourself.",
            )
        return graph

    def _emit(self, graph: TargetGraph) -> tuple[dict[str, Tensor], float]:
        """Weights by their names in the state dict, and the seconds that they took."""
        self.stop.check()
        probes = next(self.setting.train.whole_batches(PROBES))
        start = time.monotonic()
        weights, rescaled = emit(self.setting.ghn, graph, probes)
        seconds = time.monotonic() - start
        if rescaled:
            self.notes.append(
                f"{len(rescaled)} emitted weights were rescaled to keep the scale of activations where norms are far "
                "apart."
            )
        return weights, seconds

    def _measure(
        self, report: EvaluationReport, graph: TargetGraph, weights: Mapping[str, Tensor], emit_s: float
    ) -> tuple[EvaluationReport, Runnable]:
        start = time.monotonic()
        network: Runnable
        if graph.is_runnable:
            network = TracedNetwork(graph.architecture, weights, self.device)
        else:
            assert self.target.module is not None
            network = OwnModule(self.target.module, self.device)
            network.load(weights)
        measured = self._accuracy(network, "emitted weights")
        seconds = {"trace": graph.seconds, "emit": emit_s, "evaluate": time.monotonic() - start}
        if measured.n_bad:
            self.notes.append(f"The logits of {measured.n_bad:,} of {measured.n:,} val images are not finite.")
        saved = self._save(report, graph, weights, network.statistics(), self.options.save)
        report = replace(
            report,
            val_accuracy=measured.accuracy,
            val_accuracy_se=measured.se,
            val_loss=measured.loss,
            n_val=measured.n,
            seconds=seconds,
            saved=saved,
            notes=tuple(self.notes),
        )
        return report, network

    def _accuracy(self, network: Runnable, what: str) -> Measured:
        return measure(
            network,
            self.setting.train,
            self.setting.val,
            batch=self.options.batch,
            stop=self.stop,
            say=lambda done, total: self.watcher.evaluated(what, done, total),
        )

    def _compare(self, report: EvaluationReport, graph: TargetGraph, network: Runnable) -> EvaluationReport:
        """The same images with random initialisations in the place of emitted weights."""
        found: list[Measured] = []
        init = self._random_init()
        for k in range(N_SEEDS if init else 0):
            try:
                network.load(self._random_weights(graph, k))
            except (KeyError, RuntimeError):
                self.notes.append(
                    f"{self.target.name} makes different networks for different seeds: nothing to compare."
                )
                found, init = [], None
                break
            found.append(self._accuracy(network, f"random weights, seed {self.options.seed + k}"))
        return replace(
            report,
            random_val_accuracy=tuple(one.accuracy for one in found),
            random_val_loss=tuple(one.loss for one in found),
            random_init=init,
            notes=tuple(self.notes),
        )

    def _random_init(self) -> str | None:
        if self.target.make is not None:
            return "own"
        return "he" if self.target.architecture is not None else None

    def _random_weights(self, graph: TargetGraph, k: int) -> dict[str, Tensor]:
        """The k-th random initialisation; the first is that of the module at hand."""
        seed = self.options.seed + k
        if self.target.make is None or self.target.module is None:
            return random_weights(graph.architecture, seed)
        module: nn.Module = self.target.module if k == 0 else self.target.make(seed)
        return {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}

    def _save(
        self,
        report: EvaluationReport,
        graph: TargetGraph,
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Tensor],
        path: Path | None,
    ) -> Path | None:
        if path is None:
            return None
        about = {"target": report.target, "ghn": report.ghn, "data": report.data}
        if self.target.module is not None:
            tensors = state_of(self.target.module, weights, statistics, self.target.types)
        else:
            tensors = {**{name: tensor.cpu() for name, tensor in weights.items()}, **statistics}
            write_architecture(path.parent, graph.architecture)
        return save_tensors(path, tensors, about)

    def _finetune(
        self, report: EvaluationReport, graph: TargetGraph, weights: Mapping[str, Tensor]
    ) -> EvaluationReport:
        epochs, seed = self.options.finetune_epochs, self.options.seed
        self.watcher.message(f"Fine-tuning for {epochs} epochs, from emitted and from random weights ...")
        init = self._random_init() or "he"

        def initial() -> Mapping[str, Tensor]:
            return random_weights(graph.architecture, seed) if init == "he" else self._random_weights(graph, 0)

        def blended() -> Mapping[str, Tensor]:
            return training_start(graph.architecture, weights, initial())

        def before(name: str, start: Callable[[], Mapping[str, Tensor]]) -> Start:
            network = TracedNetwork(graph.architecture, start(), self.device)
            return Start(start, self._accuracy(network, f"the {name} start").accuracy)

        starts = {"emitted": before("emitted", blended), "random": before("random", initial)}
        tuned, trained_network = finetune(
            graph.architecture,
            starts,
            at_shape(self.dataset, self.setting.shape),
            epochs=epochs,
            seed=seed,
            random_init=init,
            device=self.device,
            report=lambda name, metrics: self.watcher.training(name, metrics, epochs),
            stop=self.stop,
        )
        trained = {name: tensor.detach().cpu() for name, tensor in trained_network.state_dict().items()}
        trained |= {name: trained[first] for name, first in graph.tied.items() if first in trained}
        path = self.options.save and finetuned_path(self.options.save)
        self._save(report, graph, trained, {}, path or self.folder / "finetuned.safetensors")
        self.notes.append(
            "The emitted start of fine-tuning is blended with the same random initialisation, half of each weight's "
            "variance: emitted weights alone are slower to train."
        )
        return replace(report, finetuning=tuned, notes=tuple(self.notes))

    # --- what is left behind ---

    def _keep(self, report: EvaluationReport, graph: TargetGraph) -> None:
        architecture = graph.architecture if graph.is_runnable else None
        write_report(self.folder, report, architecture, without_password(self.options.command))

    def _log(self, report: EvaluationReport, graph: TargetGraph, status: str) -> EvaluationReport:
        self.tracker.start(report, self._parameters(), data_facts(self.dataset))
        self.tracker.settle()
        report = replace(report, run_id=self.tracker.run_id)
        self._keep(report, graph)
        self.tracker.finish(report, self.folder, status)
        if self.tracker.n_kept:
            out = "" if self.options.out == Path("mlruns") else f" --out {self.options.out}"
            self.watcher.message(f"Not in the tracking store yet, but kept. To send it: hypernas sync{out}")
        return report

    def _parameters(self) -> dict[str, Any]:
        o = self.options
        return {
            "command": without_password(o.command),
            "data_fingerprint": self.dataset.fingerprint,
            "seed": o.seed,
            "device": str(self.device),
            "batch": o.batch,
            "finetune_epochs": o.finetune_epochs,
            "kwargs": dict(o.kwargs or {}),
            "allow_uncovered": o.allow_uncovered,
        }
