"""Meta-training: make emitted weights good on average over the space.

Each step samples architectures, emits their weights in one pass, runs each on the same train images, and sends the
gradients of the losses back through the emission into the GHN (Zhang et al. 2019, equation 5). The networks'
graphs are freed one by one: their gradients with respect to the emitted weights are all that the GHN needs.

Everything random in step t is drawn from (seed, t), so that a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hypernas.data import Dataset
from hypernas.data.augmentation import augment
from hypernas.data.splits import stratified_take
from hypernas.errors import CheckpointError, NonFiniteError
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.checkpoint import GHNInfo, load_checkpoint, read_info, save_checkpoint
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN, Emission
from hypernas.hypernet.graph_batch import GraphBatch
from hypernas.interrupts import StopRequest
from hypernas.networks.interpreter import Program, autocast, compile_program
from hypernas.runtime import WorkerPool
from hypernas.spaces.space import Scale, SearchSpace
from hypernas.version import __version__

__all__ = ["MetaSettings", "Progress", "is_held_out", "meta_train"]

HELD_OUT = 32  # one architecture in so many is never meta-trained on
N_VAL_ARCHITECTURES, N_VAL_IMAGES = 16, 256
# On other data the emitted classifiers are wrong at first, and their large gradients would undo what the GHN knows of
# features: for this share of the steps only what emits classifiers learns (Kumar et al. 2022, linear probing before
# fine-tuning).
CLASSIFIER_FIRST = 0.3
HIDDEN = 0.02  # share of the operations that a GHN with an open vocabulary does not see the name of


@dataclass(frozen=True)
class MetaSettings:
    """How to meta-train.

    Attributes:
        steps: steps in all; None where ``minutes`` ends it.
        minutes: wall-clock minutes in all; None where ``steps`` ends it.
        meta_batch: architectures a step.
        n_images: images a step, shared by its architectures.
        learning_rate: peak, of AdamW; warmed up, then a cosine to zero.
        clip: largest norm of the gradient.
        augment: whether the data set's augmentation is applied.
        seed: of everything random.
    """

    steps: int | None = None
    minutes: float | None = None
    meta_batch: int = 4
    n_images: int = 64
    learning_rate: float = 7e-4
    weight_decay: float = 1e-2
    warmup_steps: int = 50
    clip: float = 1.0
    augment: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """One report to whoever watches. ``fraction`` is of the whole; ``val_*`` are of the last validation."""

    step: int
    fraction: float
    loss: float
    val_loss: float
    val_accuracy: float
    architectures_per_s: float
    seconds: float
    seconds_left: float


def is_held_out(digest: str) -> bool:
    """Whether an architecture belongs to the val architectures, by its digest: the same everywhere and always."""
    return int(digest[:8], 16) % HELD_OUT == 0


def sample_architectures(
    space: SearchSpace, scale: Scale, n: int, rng: random.Random, *, held_out: bool
) -> list[Architecture]:
    """n architectures of the train part, or of the held-out part, of the space (of its split ``train`` if it has one).

    A space too small to have a held-out part (or with nothing else) is sampled whole.
    """
    split = "train" if "train" in space.splits else None
    found: list[Architecture] = []
    for _ in range(n * HELD_OUT * 20):
        architecture = space.sample(rng, scale, split)
        if is_held_out(architecture.digest) == held_out:
            found.append(architecture)
            if len(found) == n:
                return found
    return found + [space.sample(rng, scale, split) for _ in range(n - len(found))]


def meta_train(
    space: SearchSpace,
    dataset: Dataset,
    scale: Scale,
    settings: MetaSettings,
    *,
    config: GHNConfig | None = None,
    device: torch.device | None = None,
    out: Path | None = None,
    resume: bool = False,
    start: tuple[GHN, GHNInfo] | None = None,
    n_workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    stop: StopRequest | None = None,
) -> tuple[GHN, GHNInfo]:
    """Meta-train a GHN on a space and a data set.

    Args:
        scale: of the networks; images are average-pooled to its size.
        out: checkpoint, written every half minute, at an interruption and at the end.
        resume: go on from ``out``.
        start: begin from its weights, wherever the two configurations agree; operations are matched by name.
        report: called after every step.

    Returns:
        The GHN in evaluation mode and its description.

    Raises:
        NonFiniteError: where a loss is NaN or infinite; names the step and the architectures.
        KeyboardInterrupt: where ``stop`` was requested; the last checkpoint is kept.
    """
    device = device or torch.device("cpu")
    if resume:
        assert out is not None
        settings = MetaSettings(**read_info(out).settings)  # the interrupted run's: they decide what it would have done
    trainer = _Trainer(space, dataset, scale, settings, config or GHNConfig(), device)
    if resume and out is not None:
        trainer.restore(out)
    elif start is not None:
        trainer.start_from(*start)
    saved = time.monotonic()
    with WorkerPool(device, n_workers) as pool:
        try:
            while not trainer.finished:
                if stop is not None:
                    stop.check()
                trainer.advance(pool)
                report(trainer.progress())
                if out is not None and time.monotonic() - saved > 30:
                    trainer.save(out)
                    saved = time.monotonic()
            trainer.validate(pool)
        except KeyboardInterrupt:
            if out is not None and trainer.whole:
                trainer.save(out)
            raise
    if out is not None:
        trainer.save(out, finished=True)
    return trainer.ghn.eval(), trainer.info(finished=True)


class _Trainer:
    def __init__(
        self,
        space: SearchSpace,
        dataset: Dataset,
        scale: Scale,
        settings: MetaSettings,
        config: GHNConfig,
        device: torch.device,
    ) -> None:
        self.space, self.dataset, self.scale, self.settings, self.device = space, dataset, scale, settings, device
        self.ghn = GHN(config, seed=settings.seed).to(device).train()
        side = min(dataset.input_shape[1:])  # images are never enlarged
        self.scales = [(share, used) for share, used in space.meta_scales(scale) if used.input_shape[1] <= side]
        self.optimizer = torch.optim.AdamW(
            self.ghn.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
        )
        resolution = scale.input_shape[1]
        self.train_images = {}
        for size in {used.input_shape[1] for _, used in self.scales}:
            self.train_images[size], self.train_labels = dataset.images("train", resolution=size, device=device)
        images, labels = dataset.images("val", resolution=resolution, device=device)
        # of every class: files in class folders come class by class
        some = torch.from_numpy(stratified_take(dataset.val.labels.numpy(), min(N_VAL_IMAGES, len(labels)))[0])
        self.val = images[some.to(device)], labels[some.to(device)]
        self.val_architectures = sample_architectures(
            space, scale, N_VAL_ARCHITECTURES, random.Random(f"val {settings.seed}"), held_out=True
        )
        self.step = 0
        self.whole = True  # False amid an update, when a second Ctrl-C must not save what is there
        self.seconds = 0.0
        self.loss = self.val_loss = self.val_accuracy = math.nan
        self.curve: list[list[float]] = []
        self.start: Mapping[str, Any] | None = None  # see GHNInfo
        of_classifiers = set(self.ghn.decoder.of_classifiers())  # type: ignore[operator]  # of every decoder
        self.others = [parameter for parameter in self.ghn.parameters() if parameter not in of_classifiers]

    # --- one step ---

    @property
    def fraction(self) -> float:
        s = self.settings
        if s.steps is not None:
            return self.step / s.steps
        assert s.minutes is not None
        return self.seconds / (60 * s.minutes)

    @property
    def finished(self) -> bool:
        return self.fraction >= 1

    def advance(self, pool: WorkerPool) -> None:
        start = time.monotonic()
        settings = self.settings
        rng = random.Random(f"{settings.seed}/{self.step}")
        scale = self._scale(rng)
        architectures = sample_architectures(self.space, scale, settings.meta_batch, rng, held_out=False)
        x, y = self._images(scale.input_shape[1])
        emission: Emission = self.ghn(self._hide(self.ghn.batch(architectures), rng))
        # numbers only: the networks' own autograd graphs end at these leaves
        detached = [buffer.detach() for buffer in emission.buffers]

        def gradients(index: int) -> tuple[float, list[Tensor | None]]:
            program = compile_program(architectures[index])
            rows = [emission.rows[index][name] for name in program.parameter_names]
            leaves = [detached[group][row].requires_grad_() for group, row in rows]
            with autocast(self.device):
                loss = F.cross_entropy(program.run(x, leaves), y)
                # a network far worse than a guess says little, and must not drown the others of its step
                cap = 2 * math.log(scale.n_classes)
                loss = torch.where(loss <= cap, loss, cap * (1 + torch.log(loss / cap)))
            return loss.item(), list(torch.autograd.grad(loss, leaves, allow_unused=True))

        results = pool.map(gradients, range(len(architectures)))
        losses = [loss for loss, _ in results]
        self._check(losses, architectures)
        self.whole = False
        self._update(emission, [grads for _, grads in results], architectures)
        self.step += 1
        self.whole = True
        self.loss = sum(losses) / len(losses) if math.isnan(self.loss) else 0.95 * self.loss + 0.05 * _mean(losses)
        if self.step % 250 == 0:
            self.validate(pool)
        self.seconds += time.monotonic() - start

    def _scale(self, rng: random.Random) -> Scale:
        if len(self.scales) == 1:
            return self.scales[0][1]
        return rng.choices([scale for _, scale in self.scales], [share for share, _ in self.scales])[0]

    def _hide(self, batch: GraphBatch, rng: random.Random) -> GraphBatch:
        """Give some operations the embedding of unknown ones, so that it comes to mean something."""
        if not self.ghn.config.open_vocabulary:
            return batch
        generator = torch.Generator().manual_seed(rng.getrandbits(32))
        hidden = (torch.rand(batch.op.shape, generator=generator) < HIDDEN).to(self.device)
        return replace(batch, op=batch.op.masked_fill(hidden, len(self.ghn.vocabulary)))

    def _images(self, resolution: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(hash((self.settings.seed, self.step)) & 0x7FFF_FFFF)
        rows = torch.randint(len(self.train_labels), (self.settings.n_images,), generator=generator).to(self.device)
        x = self.train_images[resolution][rows]
        if self.settings.augment:
            policy = self.dataset.augmentation.at_resolution(x.shape[2], self.dataset.input_shape[1])
            x = augment(x, policy, generator)
        return x.contiguous(memory_format=torch.channels_last), self.train_labels[rows]

    def _check(self, losses: Sequence[float], architectures: Sequence[Architecture]) -> None:
        bad = [a.digest[:12] for a, loss in zip(architectures, losses, strict=True) if not math.isfinite(loss)]
        if bad:
            raise NonFiniteError(
                f"Losses are finite in meta-training; at step {self.step} those of these architectures are not",
                value=", ".join(bad),
                remedy="Lower the learning rate, or resume from the last checkpoint with another seed.",
            )

    def _update(
        self, emission: Emission, gradients: Sequence[Sequence[Tensor | None]], architectures: Sequence[Architecture]
    ) -> None:
        """One optimiser step from the gradients with respect to every emitted tensor."""
        of_buffers = [torch.zeros_like(buffer) for buffer in emission.buffers]
        for index, (architecture, grads) in enumerate(zip(architectures, gradients, strict=True)):
            for spec, grad in zip(architecture.parameters, grads, strict=True):
                if grad is not None:
                    group, row = emission.rows[index][spec.name]
                    of_buffers[group][row] = grad / len(architectures)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(list(emission.buffers), of_buffers)
        if self.start and self.start["data"] != self.dataset.name and self.fraction < CLASSIFIER_FIRST:
            for parameter in self.others:
                parameter.grad = None
        norm = torch.nn.utils.clip_grad_norm_(self.ghn.parameters(), self.settings.clip)
        if not torch.isfinite(norm):
            raise NonFiniteError(
                f"Gradients are finite in meta-training; at step {self.step} they are not",
                value=", ".join(a.digest[:12] for a in architectures),
                remedy="Lower the learning rate, or resume from the last checkpoint with another seed.",
            )
        warmup = min(1.0, (self.step + 1) / self.settings.warmup_steps)
        rate = self.settings.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, self.fraction)))
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.step()

    # --- validation, on images and architectures that are never trained on ---

    def validate(self, pool: WorkerPool) -> None:
        with torch.inference_mode():
            emission: Emission = self.ghn(self.ghn.batch(self.val_architectures))
        x, y = self.val

        def evaluate(index: int) -> tuple[float, float]:
            program: Program = compile_program(self.val_architectures[index])
            with torch.inference_mode(), autocast(self.device):
                logits = program.run(x, emission[index]).float()
                return F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item() * 100

        results = pool.map(evaluate, range(len(self.val_architectures)))
        self.val_loss, self.val_accuracy = (_mean([r[k] for r in results]) for k in range(2))
        self.curve.append([self.step, self.loss, self.val_loss, self.val_accuracy])

    # --- reports and checkpoints ---

    def progress(self) -> Progress:
        left = self.seconds * (1 / max(self.fraction, 1e-9) - 1)
        rate = self.step * self.settings.meta_batch / max(self.seconds, 1e-9)
        return Progress(
            self.step, min(1.0, self.fraction), self.loss, self.val_loss, self.val_accuracy, rate, self.seconds, left
        )

    def info(self, *, finished: bool) -> GHNInfo:
        return GHNInfo(
            space=self.space.name,
            space_version=self.space.version,
            data=self.dataset.name,
            data_fingerprint=self.dataset.fingerprint,
            scale=self.scale,
            config=self.ghn.config,
            seed=self.settings.seed,
            steps=self.step,
            architecture_steps=self.step * self.settings.meta_batch,
            seconds=self.seconds,
            finished=finished,
            figures={
                "train_loss": _number(self.loss),
                "val_loss": _number(self.val_loss),
                "val_accuracy": _number(self.val_accuracy),
                "curve": [[_number(value) for value in row] for row in self.curve],
            },
            settings=asdict(self.settings),
            start=self.start,
            version=__version__,
        )

    def start_from(self, ghn: GHN, info: GHNInfo) -> None:
        self.ghn.start_from(ghn)
        steps, seconds = info.total_architecture_steps, info.total_seconds
        self.start = {"data": info.data, "name": info.name, "architecture_steps": steps, "seconds": seconds}

    def save(self, out: Path, *, finished: bool = False) -> None:
        extra = {} if finished else _optimizer_tensors(self.ghn, self.optimizer)
        save_checkpoint(out, self.ghn, self.info(finished=finished), extra)

    def restore(self, path: Path) -> None:
        ghn, info, extra = load_checkpoint(path)
        mine = self.info(finished=False)
        for what in ("space", "space_version", "data", "data_fingerprint", "scale", "config"):
            if getattr(info, what) != getattr(mine, what):
                raise CheckpointError(
                    f"A resumed run has the same {what.replace('_', ' ')} as its checkpoint ({getattr(info, what)})",
                    value=getattr(mine, what),
                    remedy="Start a new one with another --out.",
                )
        if info.finished:
            raise CheckpointError(
                "A run that is resumed has not come to its end",
                value=str(path),
                remedy="Start a new one with another --out.",
            )
        self.ghn.load_state_dict(ghn.state_dict())
        self.step, self.seconds, self.start = info.steps, info.seconds, info.start
        self.curve = [[_float(value) for value in row] for row in info.figures["curve"]]
        self.loss, self.val_loss, self.val_accuracy = (
            _float(info.figures[key]) for key in ("train_loss", "val_loss", "val_accuracy")
        )
        _load_optimizer(self.ghn, self.optimizer, extra)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _optimizer_tensors(ghn: GHN, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, parameter in ghn.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    return tensors


def _load_optimizer(ghn: GHN, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    for name, parameter in ghn.named_parameters():
        state: dict[str, Any] = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            stored = tensors.get(f"optimizer.{key}.{name}")
            if stored is not None:
                state[key] = stored if key == "step" else stored.to(parameter.device)
        if state:
            optimizer.state[parameter] = state
