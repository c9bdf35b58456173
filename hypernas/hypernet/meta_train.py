"""Meta-training: make emitted weights good on average over the space.

Each step samples architectures, emits their weights in one pass, runs each on the same train images, and sends the
gradients of the losses back through the emission into the GHN (Zhang et al. 2019, equation 5). The networks'
graphs are freed one by one: their gradients with respect to the emitted weights are all that the GHN needs.

With several data sets (a GHN conditioned on the task, or on a support set) each step belongs to one of them; what else
is minimised for look-ahead, samples of weights and continual learning is in ``hypernas.hypernet.objectives``.

Everything random in step t is drawn from (seed, t), so that a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hypernas.data import Dataset
from hypernas.errors import CheckpointError, NonFiniteError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.hypernet.checkpoint import GHNInfo, load_checkpoint, read_info, save_checkpoint
from hypernas.hypernet.conditions import Given
from hypernas.hypernet.conditions.input import modulating
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN, Emission
from hypernas.hypernet.graph_batch import GraphBatch
from hypernas.hypernet.meta_task import Episode, MetaTask, TaskImages
from hypernas.hypernet.objectives import drift, look_ahead, repulsion
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
NOISE, EPISODE = 1_000, 10_000  # of the numbers that draw a step's noise, and the episodes of its networks
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
        inner_steps: steps of SGD from the emitted weights, each on images of its own, after which the loss is taken.
        inner_rate: of those, see ``objectives.look_ahead``.
        repulsion: weight of what keeps samples of the weights apart, where they are conditioned on noise.
        remember: weight of what holds the weights emitted for earlier tasks where they were (continual learning).
        max_shots: images of a class in a support set, at most; each step draws their number from 1.
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
    inner_steps: int = 0
    inner_rate: float = 0.02
    repulsion: float = 0.02
    remember: float = 0.0
    max_shots: int = 20
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
    more: Sequence[MetaTask] = (),
    n_workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    stop: StopRequest | None = None,
) -> tuple[GHN, GHNInfo]:
    """Meta-train a GHN on a space and a data set, or several.

    Args:
        scale: of the networks; images are average-pooled to its size. Of a GHN conditioned on data, ``n_classes`` is
            how many classes an episode has.
        out: checkpoint, written every half minute, at an interruption and at the end.
        resume: go on from ``out``.
        start: begin from its weights, wherever the two configurations agree; operations are matched by name.
        more: further data sets, for a GHN conditioned on the task or on data.
        report: called after every step.

    Returns:
        The GHN in evaluation mode and its description.

    Raises:
        UsageError: for settings that do not go with the configuration.
        NonFiniteError: where a loss is NaN or infinite; names the step and the architectures.
        KeyboardInterrupt: where ``stop`` was requested; the last checkpoint is kept.
    """
    device = device or torch.device("cpu")
    if resume:
        assert out is not None
        settings = MetaSettings(**read_info(out).settings)  # the interrupted run's: they decide what it would have done
    trainer = _Trainer(space, dataset, scale, settings, config or GHNConfig(), device, more)
    if resume and out is not None:
        trainer.restore(out)
    elif start is not None:
        trainer.start_from(*start)
    elif settings.remember:
        raise UsageError(
            "What is remembered are the tasks of the GHN that meta-training starts from, and it starts from none",
            value=f"--remember {settings.remember}",
            remedy="Start from a GHN of other tasks (--from), or leave --remember out.",
        )
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
        more: Sequence[MetaTask] = (),
    ) -> None:
        _check_tasks(config, settings, (MetaTask(dataset, scale), *more))
        self.space, self.dataset, self.scale, self.settings, self.device = space, dataset, scale, settings, device
        self.ghn = GHN(config, seed=settings.seed).to(device).train()
        self.tasks = [
            TaskImages(
                task,
                space.meta_scales(task.scale),
                device,
                n_val=N_VAL_IMAGES,
                episodes="data" in config.conditions,
                max_shots=settings.max_shots,
            )
            for task in (MetaTask(dataset, scale), *more)
        ]
        self.optimizer = torch.optim.AdamW(
            self.ghn.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
        )
        self.val_architectures = [
            sample_architectures(
                space, task.scale, N_VAL_ARCHITECTURES, random.Random(f"val {settings.seed}"), held_out=True
            )
            for task in self.tasks
        ]
        self.of_tasks: dict[str, dict[str, float]] = {}
        self.earlier: list[Mapping[str, Any]] = []  # tasks of the GHN that it started from
        self.before: GHN | None = None  # that GHN, where its tasks are to be remembered
        self.step = 0
        self.whole = True  # False amid an update, when a second Ctrl-C must not save what is there
        self.seconds = 0.0
        self.loss = self.val_loss = self.val_accuracy = math.nan
        self.curve: list[list[float]] = []
        self.start: dict[str, Any] | None = None  # see GHNInfo
        of_classifiers = set(self.ghn.decoder.of_classifiers())
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
        task = self.tasks[0] if len(self.tasks) == 1 else rng.choice(self.tasks)
        scale = task.draw_scale(rng)
        architectures = sample_architectures(self.space, scale, settings.meta_batch, rng, held_out=False)
        side, n = scale.input_shape[1], len(architectures)
        # the networks of a step see the same images; but each has an episode of its own, since there are never enough
        episodes = [self._images(task, side, i * EPISODE) for i in range(n if task.episodes else 1)]
        inner = [] if task.episodes else [self._images(task, side, i + 1) for i in range(settings.inner_steps)]
        batch = self._hide(self.ghn.batch(architectures), rng)
        given = self._given(task, episodes, n)
        emission: Emission = self.ghn(batch, given)
        # numbers only: the networks' own autograd graphs end at these leaves
        detached = [buffer.detach() for buffer in emission.buffers]
        modulations = [None if m is None else m.detach() for m in emission.modulations]

        def gradients(index: int) -> tuple[float, list[Tensor | None], list[Tensor | None]]:
            program = compile_program(architectures[index])
            names = program.parameter_names
            leaves = [detached[group][row].requires_grad_() for group, row in map(emission.rows[index].get, names)]  # type: ignore[misc]
            of_images = {
                name: modulations[group][row].requires_grad_()  # type: ignore[index]
                for name, (group, row) in emission.modulated[index].items()
            }
            call = modulating(program, of_images, shapes=architectures[index].shapes) if of_images else None

            def loss_on(images: Episode, weights: Sequence[Tensor]) -> Tensor:
                with autocast(self.device):
                    return F.cross_entropy(program.run(images.x, weights, call=call), images.y)

            episode, weights = episodes[index % len(episodes)], leaves
            if episode.support is not None:  # what is looked ahead to is training on the few images that there are
                own = [Episode(episode.support.images, episode.support.labels)] * settings.inner_steps
            else:
                own = inner
            if own:
                steps = [lambda weights, one=one: loss_on(one, weights) for one in own]
                weights = look_ahead(leaves, steps, settings.inner_rate)
            loss = loss_on(episode, weights)
            # a network far worse than a guess says little, and must not drown the others of its step
            cap = 2 * math.log(scale.n_classes)
            loss = torch.where(loss <= cap, loss, cap * (1 + torch.log(loss / cap)))
            wanted = [*weights, *of_images.values()]
            found: list[Tensor | None] = list(torch.autograd.grad(loss, wanted, allow_unused=True))
            return loss.item(), found[: len(weights)], found[len(weights) :]

        results = pool.map(gradients, range(len(architectures)))
        losses = [loss for loss, _, _ in results]
        self._check(losses, architectures)
        self.whole = False
        others = self._other_objectives(rng, batch, given, emission, n)
        self._update(emission, [found[1:] for found in results], architectures, others)
        self.step += 1
        self.whole = True
        self.loss = sum(losses) / len(losses) if math.isnan(self.loss) else 0.95 * self.loss + 0.05 * _mean(losses)
        if self.step % 250 == 0:
            self.validate(pool)
        self.seconds += time.monotonic() - start

    def _given(self, task: TaskImages, episodes: Sequence[Episode], n: int) -> Given:
        """What the conditions of this step are given: one episode for all networks, or one for each."""
        conditions = self.ghn.config.conditions
        return Given(
            task=task.dataset.name if "task" in conditions else None,
            support=None if "data" not in conditions else [one.support for one in episodes if one.support is not None],
            images=episodes[0].x if "input" in conditions else None,
            noise=self._noise(n, NOISE) if "noise" in conditions else None,
        )

    def _noise(self, n: int, sample: int) -> Tensor:
        """(n, noise_dim): of this step, and of one of its samples."""
        generator = torch.Generator().manual_seed(_hashed(self.settings.seed, self.step, sample))
        return torch.randn(n, self.ghn.config.noise_dim, generator=generator)

    def _other_objectives(
        self, rng: random.Random, batch: GraphBatch, given: Given, emission: Emission, n: int
    ) -> list[Tensor]:
        """Further terms of the loss, functions of what is emitted alone."""
        terms = []
        if "noise" in self.ghn.config.conditions and self.settings.repulsion:
            other = self.ghn(batch, replace(given, noise=self._noise(n, NOISE + 1)))
            terms.append(self.settings.repulsion * repulsion(emission, other))
        if self.before is not None:
            task = rng.choice(self.earlier)
            architectures = sample_architectures(self.space, Scale.from_json(task["scale"]), n, rng, held_out=False)
            of_task = replace(given, task=task["data"], noise=None)
            with torch.no_grad():
                before = self.before(self.before.batch(architectures), of_task)
            now = self.ghn(self.ghn.batch(architectures), of_task)
            terms.append(self.settings.remember * drift(now, before))
        return terms

    def _hide(self, batch: GraphBatch, rng: random.Random) -> GraphBatch:
        """Give some operations the embedding of unknown ones, so that it comes to mean something."""
        if not self.ghn.config.open_vocabulary:
            return batch
        generator = torch.Generator().manual_seed(rng.getrandbits(32))
        hidden = (torch.rand(batch.op.shape, generator=generator) < HIDDEN).to(self.device)
        return replace(batch, op=batch.op.masked_fill(hidden, len(self.ghn.vocabulary)))

    def _images(self, task: TaskImages, resolution: int, inner: int = 0) -> Episode:
        """The images of this step, or of one of its inner steps."""
        of_step = (self.settings.seed, self.step) if inner == 0 else (self.settings.seed, self.step, inner)
        return task.batch(resolution, self.settings.n_images, _hashed(*of_step), augmented=self.settings.augment)

    def _check(self, losses: Sequence[float], architectures: Sequence[Architecture]) -> None:
        bad = [a.digest[:12] for a, loss in zip(architectures, losses, strict=True) if not math.isfinite(loss)]
        if bad:
            raise NonFiniteError(
                f"Losses are finite in meta-training; at step {self.step} those of these architectures are not",
                value=", ".join(bad),
                remedy="Lower the learning rate, or resume from the last checkpoint with another seed.",
            )

    def _update(
        self,
        emission: Emission,
        gradients: Sequence[tuple[Sequence[Tensor | None], Sequence[Tensor | None]]],
        architectures: Sequence[Architecture],
        others: Sequence[Tensor],
    ) -> None:
        """One optimiser step from the gradients with respect to every emitted tensor, and the other objectives."""
        of_buffers = [torch.zeros_like(buffer) for buffer in emission.buffers]
        of_modulations = [None if m is None else torch.zeros_like(m) for m in emission.modulations]
        for index, (architecture, (grads, of_images)) in enumerate(zip(architectures, gradients, strict=True)):
            for spec, grad in zip(architecture.parameters, grads, strict=True):
                if grad is not None:
                    group, row = emission.rows[index][spec.name]
                    of_buffers[group][row] = grad / len(architectures)
            for (group, row), grad in zip(emission.modulated[index].values(), of_images, strict=True):
                if grad is not None:
                    of_modulations[group][row] = grad / len(architectures)  # type: ignore[index]
        self.optimizer.zero_grad(set_to_none=True)
        outputs = [*emission.buffers, *(m for m in emission.modulations if m is not None), *others]
        flows = [*of_buffers, *(m for m in of_modulations if m is not None), *(torch.ones_like(o) for o in others)]
        torch.autograd.backward(outputs, flows)
        adapts = self.start is not None and self.start["data"] != self.dataset.name and not self.ghn.config.conditions
        if adapts and self.fraction < CLASSIFIER_FIRST:
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
        found = [
            self._validate(task, made, pool) for task, made in zip(self.tasks, self.val_architectures, strict=True)
        ]
        self.val_loss, self.val_accuracy = (_mean([one[k] for one in found]) for k in range(2))
        if len(self.tasks) > 1:
            self.of_tasks = {
                task.dataset.name: {"val_loss": loss, "val_accuracy": accuracy}
                for task, (loss, accuracy) in zip(self.tasks, found, strict=True)
            }
        self.curve.append([self.step, self.loss, self.val_loss, self.val_accuracy])

    def _validate(
        self, task: TaskImages, architectures: Sequence[Architecture], pool: WorkerPool
    ) -> tuple[float, float]:
        """Mean loss and accuracy of emitted weights on the task's val images; noise at its centre."""
        x, y = task.val.x, task.val.y
        given = replace(self._given(task, [task.val] * len(architectures), len(architectures)), noise=None)
        with torch.inference_mode():
            emission: Emission = self.ghn(self.ghn.batch(architectures), given)

        def evaluate(index: int) -> tuple[float, float]:
            program: Program = compile_program(architectures[index])
            of_images = emission.modulations_of(index)
            call = modulating(program, of_images, shapes=architectures[index].shapes) if of_images else None
            with torch.inference_mode(), autocast(self.device):
                logits = program.run(x, emission[index], call=call).float()
                return F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item() * 100

        results = pool.map(evaluate, range(len(architectures)))
        return _mean([loss for loss, _ in results]), _mean([accuracy for _, accuracy in results])

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
                **({"tasks": self.of_tasks} if self.of_tasks else {}),
            },
            tasks=self._all_tasks(),
            settings=asdict(self.settings),
            start=self.start,
            version=__version__,
        )

    def _all_tasks(self) -> tuple[Mapping[str, Any], ...]:
        """Those of this run and, where tasks are told apart by name, those of the GHN that it started from."""
        if len(self.tasks) == 1 and "task" not in self.ghn.config.conditions:
            return ()
        mine = [
            {"data": t.dataset.name, "fingerprint": t.dataset.fingerprint, "scale": t.scale.to_json()}
            for t in self.tasks
        ]
        return (*self.earlier, *mine)

    def start_from(self, ghn: GHN, info: GHNInfo) -> None:
        self.ghn.start_from(ghn)
        current = {task.dataset.name for task in self.tasks}
        if "task" in self.ghn.config.conditions:
            self.earlier = [task for task in info.tasks if task["data"] not in current]
        if self.settings.remember:
            if not self.earlier:
                raise UsageError(
                    "What is remembered are the tasks of the GHN that meta-training starts from, other than this one's",
                    value=[task["data"] for task in info.tasks],
                    remedy="Start from a GHN of other tasks (--from), or leave --remember out.",
                )
            self.before = copy.deepcopy(self.ghn).eval()
        steps, seconds = info.total_architecture_steps, info.total_seconds
        self.start = {"data": info.data, "name": info.name, "architecture_steps": steps, "seconds": seconds}
        if self.earlier:
            self.start["tasks"] = [task["data"] for task in self.earlier]

    def save(self, out: Path, *, finished: bool = False) -> None:
        extra = {} if finished else _optimizer_tensors(self.ghn, self.optimizer)
        if self.before is not None and not finished:
            extra |= {f"before.{name}": tensor for name, tensor in self.before.state_dict().items()}
        save_checkpoint(out, self.ghn, self.info(finished=finished), extra)

    def restore(self, path: Path) -> None:
        ghn, info, extra = load_checkpoint(path)
        mine = self.info(finished=False)
        for what in ("space", "space_version", "data", "data_fingerprint", "scale", "config"):
            if getattr(info, what) != getattr(mine, what):
                theirs, ours = getattr(info, what), getattr(mine, what)
                if what == "config":  # of a hundred names of operations only what differs
                    names = [f.name for f in fields(ours) if getattr(theirs, f.name) != getattr(ours, f.name)]
                    theirs, ours = ({name: getattr(config, name) for name in names} for config in (theirs, ours))
                raise CheckpointError(
                    f"A resumed run has the same {what.replace('_', ' ')} as its checkpoint ({theirs})",
                    value=ours,
                    remedy="Start a new one with another --out.",
                )
        before = (info.start or {}).get("tasks", ())
        self.earlier = [task for task in info.tasks if task["data"] in before]
        if [dict(task) for task in info.tasks] != [dict(task) for task in self._all_tasks()]:
            raise CheckpointError(
                "A resumed run has the same data sets as its checkpoint",
                value=[task["data"] for task in self._all_tasks()[len(self.earlier) :]],
                remedy=f"Name {', '.join(task['data'] for task in info.tasks[len(self.earlier) :])}, in this order.",
            )
        if info.finished:
            raise CheckpointError(
                "A run that is resumed has not come to its end",
                value=str(path),
                remedy="Start a new one with another --out.",
            )
        self.ghn.load_state_dict(ghn.state_dict())
        if self.settings.remember and self.earlier:
            self.before = copy.deepcopy(self.ghn).eval()
            kept = {name: tensor for name, tensor in extra.items() if name.startswith("before.")}
            self.before.load_state_dict({name.removeprefix("before."): tensor for name, tensor in kept.items()})
        self.step, self.seconds = info.steps, info.seconds
        self.start = None if info.start is None else dict(info.start)
        self.curve = [[_float(value) for value in row] for row in info.figures["curve"]]
        self.of_tasks = dict(info.figures.get("tasks", {}))
        self.loss, self.val_loss, self.val_accuracy = (
            _float(info.figures[key]) for key in ("train_loss", "val_loss", "val_accuracy")
        )
        _load_optimizer(self.ghn, self.optimizer, extra)


def _hashed(*numbers: int) -> int:
    return hash(numbers) & 0x7FFF_FFFF  # of whole numbers: the same in every process


def check_told_apart(names: Sequence[str]) -> None:
    """Raises UsageError: for a GHN of no condition that says which of several data sets it emits for."""
    raise UsageError(
        "Several data sets need a GHN that is told which one it emits for",
        value=list(names),
        remedy="Add --condition task (known by name) or --condition data (known by a support set).",
    )


def _check_tasks(config: GHNConfig, settings: MetaSettings, tasks: Sequence[MetaTask]) -> None:
    """Raises UsageError where data sets, settings and conditions do not go together."""
    names = [task.dataset.name for task in tasks]
    if len(set(names)) < len(names):
        raise UsageError("Each data set is named once", value=names)
    if len(tasks) > 1 and not {"task", "data"} & set(config.conditions):
        check_told_apart(names)
    unknown = [name for name in names if name not in config.tasks] if "task" in config.conditions else []
    if unknown:
        raise UsageError(f"The GHN knows the tasks {', '.join(config.tasks)}", value=unknown[0])
    if settings.remember and "task" not in config.conditions:
        raise UsageError(
            "Only a GHN that tells tasks apart can hold what it emits for earlier ones",
            value=f"--remember {settings.remember}",
            remedy="Pretrain from the first task on with --condition task.",
        )
    if settings.remember and "input" in config.conditions:
        raise UsageError(
            "What is emitted for images of earlier tasks cannot be held without those images",
            value=f"--remember {settings.remember}",
            remedy="Leave one of --remember and --condition input out.",
        )
    if settings.inner_steps and "input" in config.conditions:
        raise UsageError(
            "Look-ahead takes inner steps on other images than those that a network conditioned on the input was "
            "emitted for",
            value=f"--inner-steps {settings.inner_steps}",
            remedy="Leave one of the two out.",
        )


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
