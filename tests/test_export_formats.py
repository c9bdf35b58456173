"""Exported files: they run without hypernas, agree with the network, are whole, and replace nothing by accident."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exported_networks import SPACES, TOLERANCE, sample, save_network
from safetensors import safe_open
from safetensors.torch import load_file

from hypernas.errors import CheckpointError, HypernasError, StoreError, UsageError
from hypernas.exporting import writers
from hypernas.exporting.formats import EXTENSIONS, FORMATS, ExportReport, export_network
from hypernas.exporting.python_source import Preprocessing
from hypernas.graphs.architecture import Architecture
from hypernas.networks.network import load_network

FACTS = {"space": "nasbench201", "classes": ["cat", "dög"], "val_accuracy": 91.25}
PREPROCESSING = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.2, 0.3), "cifar10")

# what a user without hypernas runs: the logits of a given batch, by each format
OUTSIDE = """
import sys
sys.modules["hypernas"] = None  # any import of it fails
import torch
images = torch.load(sys.argv[2], weights_only=True)
path = sys.argv[1]
if path.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["images"]
    logits = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
elif path.endswith(".pt2"):
    logits = torch.export.load(path).module()(images)
else:
    import importlib.util
    spec = importlib.util.spec_from_file_location("network", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    logits = module.load()(images)
torch.save(logits.detach(), sys.argv[3])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network, more or less."""
    return save_network(sample("nasbench201", 0), tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def architecture(folder: Path) -> Architecture:
    return load_network(folder).architecture


def export(folder: Path | None, architecture: Architecture, name: str, out: Path) -> ExportReport:
    return export_network(folder, architecture, name, out, preprocessing=PREPROCESSING, facts=FACTS, title="Best")


def logits_outside(path: Path, images: torch.Tensor, work: Path) -> torch.Tensor:
    torch.save(images, work / "images.pt")
    subprocess.run(
        [sys.executable, "-c", OUTSIDE, path, work / "images.pt", work / "logits.pt"], check=True, timeout=300
    )
    logits: torch.Tensor = torch.load(work / "logits.pt", weights_only=True)
    return logits


@pytest.mark.parametrize(
    "name",
    [pytest.param("onnx", marks=pytest.mark.slow), pytest.param("torch-export", marks=pytest.mark.slow), "python"],
)
def test_an_export_runs_without_hypernas_on_any_batch(
    name: str, folder: Path, architecture: Architecture, tmp_path: Path
) -> None:
    out = tmp_path / f"model.{EXTENSIONS[name]}"
    report = export(folder, architecture, name, out)
    assert report.paths[0] == out
    assert report.difference is not None
    assert report.difference <= TOLERANCE
    images = torch.randn(5, *architecture.input_shape)
    with torch.no_grad():
        wanted = load_network(folder)(images)
    torch.testing.assert_close(logits_outside(out, images, tmp_path), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_onnx_file_is_one_file_with_names_batch_and_facts(
    folder: Path, architecture: Architecture, tmp_path: Path
) -> None:
    import onnx

    out = tmp_path / "model.onnx"
    report = export(folder, architecture, "onnx", out)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert report.n_bytes == (out.stat().st_size,)
    model = onnx.load(out)
    onnx.checker.check_model(model)
    (given,), (result,) = model.graph.input, model.graph.output
    assert (given.name, result.name) == ("images", "logits")
    assert given.type.tensor_type.shape.dim[0].dim_param
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["classes"]) == FACTS["classes"]
    assert json.loads(facts["preprocessing"])["mean"] == list(PREPROCESSING.mean)
    assert facts["digest"] == architecture.digest


@pytest.mark.slow
def test_a_torch_export_has_the_facts(folder: Path, architecture: Architecture, tmp_path: Path) -> None:
    out = tmp_path / "model.any"
    export(folder, architecture, "torch-export", out)
    renamed = out.rename(tmp_path / "model.pt2")
    more = {"hypernas.json": ""}
    torch.export.load(renamed, extra_files=more)
    assert json.loads(more["hypernas.json"])["val_accuracy"] == 91.25


def test_a_state_dict_has_the_networks_own_names_and_the_facts(
    folder: Path, architecture: Architecture, tmp_path: Path
) -> None:
    out = tmp_path / "model.safetensors"
    export(folder, architecture, "state-dict", out)
    found, wanted = load_file(out), load_file(folder / "weights.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    with safe_open(out, framework="pt") as file:
        facts = json.loads(file.metadata()["hypernas"])
    assert (facts["digest"], facts["classes"]) == (architecture.digest, FACTS["classes"])
    assert facts["preprocessing"]["std"] == list(PREPROCESSING.std)


def test_an_architecture_is_json_that_reads_back(architecture: Architecture, tmp_path: Path) -> None:
    report = export(None, architecture, "architecture-json", tmp_path / "model.json")
    assert report.difference is None
    assert Architecture.from_json((tmp_path / "model.json").read_text()) == architecture


def test_python_has_its_weights_beside_it_where_there_are_any(
    folder: Path, architecture: Architecture, tmp_path: Path
) -> None:
    untrained = export(None, architecture, "python", tmp_path / "a.py")
    trained = export(folder, architecture, "python", tmp_path / "b.py")
    assert [path.name for path in (*untrained.paths, *trained.paths)] == ["a.py", "b.py", "b.safetensors"]
    assert untrained.difference is None
    assert '.with_name("b.safetensors")' in (tmp_path / "b.py").read_text()


# --- refusals ---


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_unknown_format_lists_those_there_are(architecture: Architecture, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"got 'onyx'. Did you mean 'onnx'\? Known: .*torch-export"):
        export(None, architecture, "onyx", tmp_path / "x")


@pytest.mark.parametrize("name", ["onnx", "torch-export", "state-dict"])
def test_formats_of_weights_need_some(name: str, architecture: Architecture, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has none\. Train it, or export it as architecture-json or python"):
        export(None, architecture, name, tmp_path / "x")
    assert left(tmp_path) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_remedy(
    package: str, folder: Path, architecture: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf'no {package}\'. Install them: pip install "hypernas\[onnx\]"'):
        export(folder, architecture, "onnx", tmp_path / "x.onnx")


@pytest.mark.parametrize("name", FORMATS)
def test_out_is_in_a_folder_that_exists_and_is_none(
    name: str, folder: Path, architecture: Architecture, tmp_path: Path
) -> None:
    ending = EXTENSIONS[name]
    with pytest.raises(UsageError, match=r"folder of --out exists.*mkdir -p"):
        export(folder, architecture, name, tmp_path / "missing" / f"x.{ending}")
    (tmp_path / f"there.{ending}").mkdir()
    (tmp_path / f"link.{ending}").symlink_to(tmp_path / "nothing")
    for out in (f"there.{ending}", f"link.{ending}"):
        with pytest.raises(UsageError, match="over a regular one"):
            export(folder, architecture, name, tmp_path / out)
    assert left(tmp_path) == [f"link.{ending}", f"there.{ending}"]


def test_a_python_file_is_called_so(architecture: Architecture, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"named NAME\.py"):
        export(None, architecture, "python", tmp_path / "x.safetensors")


def test_the_weights_beside_a_python_file_replace_no_folder(
    folder: Path, architecture: Architecture, tmp_path: Path
) -> None:
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(UsageError, match="over a regular one"):
        export(folder, architecture, "python", tmp_path / "x.py")
    assert left(tmp_path) == ["x.safetensors"]


def test_an_old_file_is_replaced(folder: Path, architecture: Architecture, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    out.write_text("old")
    export(folder, architecture, "state-dict", out)
    assert load_file(out)
    assert left(tmp_path) == ["x.safetensors"]


@pytest.mark.parametrize("name", ["state-dict", "python"])
def test_an_export_that_differs_is_refused_and_leaves_the_old_file(
    name: str, folder: Path, architecture: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / f"x.{EXTENSIONS[name]}"
    out.write_text("old")
    monkeypatch.setattr(writers, "TOLERANCE", -1.0)
    with pytest.raises(HypernasError, match="nothing was written; got"):
        export(folder, architecture, name, out)
    assert (out.read_text(), left(tmp_path)) == ("old", [out.name])


def test_missing_and_damaged_weights_are_named(architecture: Architecture, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"can be read.*weights\.safetensors"):
        export(tmp_path, architecture, "state-dict", tmp_path / "x")
    (tmp_path / "weights.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=r"can be read.*weights\.safetensors"):
        export(tmp_path, architecture, "state-dict", tmp_path / "x")


def test_weights_of_another_network_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Weights fit the architecture"):
        export(folder, sample("macro", 0), "state-dict", tmp_path / "x")
    assert left(tmp_path) == []


def test_a_full_disk_is_said(
    folder: Path, architecture: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(job: writers.Job, path: Path) -> float:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(writers.WRITERS, "state-dict", full)  # type: ignore[misc]
    with pytest.raises(StoreError, match="No space left"):
        export(folder, architecture, "state-dict", tmp_path / "x")
    assert left(tmp_path) == []


# --- all spaces ---


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", ["onnx", "torch-export"])
def test_networks_of_all_spaces_can_be_exported(space: str, name: str, tmp_path: Path) -> None:
    """`scripts/check_exports.py` does a hundred."""
    for seed in (200, 201):
        architecture = sample(space, seed)
        folder = save_network(architecture, tmp_path / str(seed))
        report = export_network(folder, architecture, name, tmp_path / f"{seed}.{EXTENSIONS[name]}")
        assert report.difference is not None
        assert report.difference <= TOLERANCE
