"""Trained networks as MLflow models: loaded and served without hypernas, and versions in the model registry.

Everything goes through a client of its own. MLflow's global state (tracking URI, active run) belongs to the user, and
this may run in a thread beside others.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypernas.errors import StoreError, UsageError
from hypernas.exporting.formats import read_weights
from hypernas.exporting.module import build_module
from hypernas.graphs.architecture import Architecture
from hypernas.tracking.backend import quiet_environment, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from torch import nn

__all__ = ["CANDIDATE", "CHAMPION", "MODEL_NAME", "log_model", "register_model"]

MODEL_NAME = "network"
CANDIDATE, CHAMPION = "candidate", "champion"
METRICS = ("val_accuracy", "test_accuracy")  # of the run, shown beside the model
REQUIREMENTS = ("torch", "numpy", "mlflow")
VERSIONS_TAG = "mlflow.modelVersions"
N_EXAMPLE = 2  # torch.export takes a batch of one for a constant

_exporting = threading.Lock()  # torch.export is not said to be safe in several threads


def log_model(
    client_uri: str,
    run_id: str,
    network_folder: Path,
    *,
    classes: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Log a trained network as an MLflow model of an existing run, once; takes about a second and a half.

    The model takes normalised images, float32 (batch, channels, height, width), in any number, and gives logits. To be
    called when the run has its metrics: ``val_accuracy`` and ``test_accuracy`` are shown with the model too.

    Args:
        client_uri: of the tracking store.
        network_folder: where ``Network.save`` wrote architecture and weights.
        classes: their names, in the order of the logits.
        metadata: JSON values that are kept with the model: space, data, accuracies, the images' mean and std.

    Returns:
        ``models:/<model id>``, for ``mlflow.pytorch.load_model`` and ``register_model``.

    Raises:
        StoreError: where the store cannot be written; no half-made model is left.
        CheckpointError, ArchitectureError: where the network cannot be read.
    """
    quiet_environment()
    import mlflow

    with store_errors(client_uri):
        client = mlflow.MlflowClient(tracking_uri=client_uri)
        run = client.get_run(run_id)
        known = _logged(client, str(run.info.experiment_id), run_id)
    if known is not None:
        return f"models:/{known}"
    try:
        architecture = Architecture.from_json((network_folder / "architecture.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"A trained network can be read ({error})", value=str(network_folder)) from None
    module = build_module(architecture, read_weights(network_folder))
    given = json.loads(json.dumps(dict(metadata or {})))  # plain lists: the model's file is YAML
    about = {"digest": architecture.digest, "classes": list(classes), **given}
    with store_errors(client_uri):
        model = client.create_logged_model(
            str(run.info.experiment_id),
            name=MODEL_NAME,
            source_run_id=run_id,
            tags={f"hypernas.{key}": _text(value) for key, value in about.items() if value not in (None, [], "")},
            params=dict(run.data.params),
            model_type="image-classifier",
        )
    try:
        with store_errors(client_uri), tempfile.TemporaryDirectory(prefix="hypernas-") as folder:
            _save(module, architecture, model, run_id, about, Path(folder) / "model")
            client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
            _announce(client, run_id, model.model_id)
            client.finalize_logged_model(model.model_id, "READY")
    except BaseException:
        _discard(client, model.model_id)
        raise
    return f"models:/{model.model_id}"


def _logged(client: MlflowClient, experiment_id: str, run_id: str) -> str | None:
    """The run's model, if it has one; those that were half made when a process was killed are deleted."""
    found = None
    for model in client.search_logged_models([experiment_id], filter_string=f"source_run_id = '{run_id}'"):
        if model.name != MODEL_NAME:
            continue
        if str(model.status) == "READY":
            found = str(model.model_id)
        else:
            client.delete_logged_model(model.model_id)
    return found


def _discard(client: MlflowClient, model_id: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.delete_logged_model(model_id)
    except MlflowException:  # the store is gone, which the first error says
        return


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _save(
    module: nn.Module, architecture: Architecture, model: LoggedModel, run_id: str, about: Mapping[str, Any], path: Path
) -> None:
    """Write MLflow's model folder."""
    import mlflow.pytorch
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    real = np.dtype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(real, (-1, *architecture.input_shape))]),
        outputs=Schema([TensorSpec(real, (-1, *architecture.output_shape))]),
    )
    images = np.random.default_rng(0).standard_normal((N_EXAMPLE, *architecture.input_shape), dtype=np.float32)
    described = Model(
        artifact_path=model.artifact_location,
        model_uuid=model.model_id,
        run_id=run_id,
        metadata=dict(about),
        model_id=model.model_id,
    )
    with _exporting:
        mlflow.pytorch.save_model(
            module,
            str(path),
            mlflow_model=described,
            signature=signature,
            input_example=images,
            pip_requirements=[f"{name}=={_version(name)}" for name in REQUIREMENTS],
            serialization_format="pt2",
        )


def _version(package: str) -> str:
    """Without the local part: ``2.13.0+cpu`` is on no index."""
    return importlib.metadata.version(package).partition("+")[0]


def _announce(client: MlflowClient, run_id: str, model_id: str) -> None:
    """Name the model among the run's outputs, and the run's accuracies as the model's."""
    from mlflow.entities import LoggedModelOutput, Metric

    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    metrics = [
        Metric(m.key, m.value, m.timestamp, m.step, run_id=run_id, model_id=model_id)
        for key in METRICS
        for m in client.get_metric_history(run_id, key)[-1:]
    ]
    if metrics:
        client.log_batch(run_id, metrics=metrics)


# --- the registry --------------------------------------------------------------------------------------------------


def register_model(client: MlflowClient, model_uri: str, name: str, *, tags: Mapping[str, Any] | None = None) -> str:
    """A version of a registered model, once for each run; gets the alias ``candidate``.

    It becomes ``champion`` where there is none, or where it beats the champion's val accuracy on the same data set.

    Args:
        model_uri: as ``log_model`` returns it.
        name: of the registered model, which is made where there is none.
        tags: of the version; ``val_accuracy`` (per cent) and ``data`` decide about the champion.

    Returns:
        The version's number.

    Raises:
        UsageError: for a name that MLflow refuses.
        StoreError: where the store cannot be written.
    """
    model_id = model_uri.removeprefix("models:/")
    uri = str(client.tracking_uri)
    _create_registered(client, name, uri)
    with store_errors(uri):
        model = client.get_logged_model(model_id)
        run_id = model.source_run_id
        known = [v for v in client.search_model_versions(f"run_id = '{run_id}'") if v.name == name]
        if known:
            return str(known[0].version)
        version = client.create_model_version(
            name,
            source=_source(uri, model),
            run_id=run_id,
            model_id=model_id,
            tags={key: _text(value) for key, value in (tags or {}).items()},
        )
        there = [{"name": name, "version": version.version}]  # the model's page shows its versions by this tag
        others = json.loads(model.tags.get(VERSIONS_TAG, "[]"))
        client.set_logged_model_tags(model_id, {VERSIONS_TAG: json.dumps([*others, *there])})
        client.set_registered_model_alias(name, CANDIDATE, version.version)
        champion = _champion(client, name)
        if champion is None or _beats(version.tags, champion.tags):
            client.set_registered_model_alias(name, CHAMPION, version.version)
    return str(version.version)


def _source(uri: str, model: LoggedModel) -> str:
    """Where the version's files are. A server knows its models; a database would ask MLflow's global store for them."""
    is_server = uri.startswith(("http://", "https://"))
    return f"models:/{model.model_id}" if is_server else str(model.artifact_location)


def _create_registered(client: MlflowClient, name: str, uri: str) -> None:
    from mlflow.exceptions import MlflowException

    with store_errors(uri):
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
                return
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise UsageError(
                f"A registered model has a name that MLflow takes ({str(error).splitlines()[0][:200]})",
                value=name,
                remedy="Use letters, digits, - and _.",
            ) from None


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    found = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if found is None else client.get_model_version(name, str(found))


def _beats(new: Mapping[str, str], old: Mapping[str, str]) -> bool:
    if not new.get("data") or new.get("data") != old.get("data"):
        return False
    try:
        return float(new["val_accuracy"]) > float(old["val_accuracy"])
    except (KeyError, ValueError):
        return False
