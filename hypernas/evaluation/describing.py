"""What a report says of a network before any image is looked at."""

from __future__ import annotations

from hypernas.evaluation.coverage import count_parameters, coverage_of, emitted_names, layers_of, layers_of_architecture
from hypernas.evaluation.graph import TargetGraph
from hypernas.evaluation.preparing import Setting
from hypernas.evaluation.report import EvaluationReport, UncoveredOperation

__all__ = ["describe"]

NAMED = 4  # unused parameters that the note names
OPAQUE = "opaque"  # what stands for an operation that is not covered


def describe(setting: Setting, graph: TargetGraph) -> EvaluationReport:
    """A report without measurements; what the user should know is added to the setting's notes."""
    names = emitted_names(setting.ghn, graph.architecture)
    target = setting.target
    if target.module is not None and graph.traced is not None:
        layers = layers_of(target.module, graph.traced, names)
    else:
        layers = layers_of_architecture(graph.architecture, names)
    uncovered = tuple(
        UncoveredOperation(one.op, one.module_path, one.line, one.reason, one.parameters)
        for one in (graph.traced.uncovered if graph.traced else ())
    )
    setting.notes += _notes(setting, graph)
    return EvaluationReport(
        target=target.name,
        n_parameters=count_parameters(layers, graph.tied),
        flops=graph.architecture.flops,
        coverage=coverage_of(layers, graph.unused, graph.tied),
        uncovered=uncovered,
        val_accuracy=0.0,
        val_accuracy_se=0.0,
        random_val_accuracy=(),
        seconds={},
        kind=target.kind,
        ghn=setting.info.name if setting.info else "",
        ghn_data=setting.info.data if setting.info else "",
        data=setting.dataset.name,
        input_shape=setting.shape,
        n_classes=setting.dataset.n_classes,
        filled=dict(target.filled),
        unused=graph.unused,
        layers=layers,
    )


def _notes(setting: Setting, graph: TargetGraph) -> list[str]:
    notes = []
    unknown = {node.op for node in graph.architecture.dataflow.operations} - set(setting.ghn.vocabulary) - {OPAQUE}
    if unknown:
        notes.append(f"The GHN has met no {', '.join(sorted(unknown))} in meta-training.")
    if graph.unused:
        more = ", …" if len(graph.unused) > NAMED else ""
        notes.append(
            f"The forward does not use these parameters, {len(graph.unused)} in all, which stay as they are: "
            f"{', '.join(graph.unused[:NAMED])}{more}."
        )
    if graph.uncovered_operations:
        notes.append(
            f"Not covered: {', '.join(graph.uncovered_operations)}; what only these need keeps the module's own "
            "initialisation, and the FLOPs leave them out."
        )
    return notes
