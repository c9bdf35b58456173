"""Who proposes: Optuna's samplers behind ask and tell, in batches, never the same digest twice."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypernas.errors import UsageError, close_matches
from hypernas.graphs.architecture import Architecture
from hypernas.spaces.space import Choice, Chooser, Scale, SearchSpace, random_chooser

if TYPE_CHECKING:
    import optuna

__all__ = ["SAMPLERS", "Proposer"]

SAMPLERS = ("random", "tpe", "nsga2")
# A sampler that has converged proposes what it proposed before. After so many repeats in a row it is helped by a random
# proposal; after so many random repeats in a row the space is taken to be exhausted.
MAX_REPEATS, MAX_RANDOM_REPEATS = 20, 1_000
FORGET = 1_000  # trials after which a sampler without memory gets a new, empty study


@dataclass
class Proposer:
    """Proposes distinct architectures.

    Attributes:
        exhausted: the space has (almost certainly) no further distinct architecture.
    """

    space: SearchSpace
    scale: Scale
    sampler: str
    seed: int
    exhausted: bool = False
    _seen: set[bytes] = field(default_factory=set)
    _open: dict[str, optuna.trial.Trial | None] = field(default_factory=dict)
    _options: dict[str, tuple[Choice, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UsageError(
                "The sampler is one of those known", value=self.sampler, remedy=close_matches(self.sampler, SAMPLERS)
            )
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        makers: dict[str, Any] = {
            "random": optuna.samplers.RandomSampler,
            "tpe": optuna.samplers.TPESampler,
            "nsga2": optuna.samplers.NSGAIISampler,
        }
        options = {"multivariate": False, "constant_liar": True} if self.sampler == "tpe" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._sampler = makers[self.sampler](seed=self.seed, **options)
        self._study = self._new_study()
        self._rng = random.Random(f"proposer {self.seed}")

    def _new_study(self) -> optuna.Study:
        import optuna

        return optuna.create_study(direction="maximize", sampler=self._sampler)

    def ask(self, n: int) -> list[Architecture]:
        """Up to n architectures that were not proposed before; fewer once the space is exhausted."""
        found: list[Architecture] = []
        while len(found) < n and not self.exhausted:
            architecture = self._one()
            if architecture is not None:
                found.append(architecture)
        return found

    def _one(self) -> Architecture | None:
        import optuna

        for _ in range(MAX_REPEATS):
            trial = self._study.ask()
            architecture = self.space.candidate(self._chooser(trial), self.scale)
            if self._is_new(architecture):
                self._open[architecture.digest] = trial
                return architecture
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            self._forget()
        for _ in range(MAX_RANDOM_REPEATS):
            architecture = self.space.candidate(random_chooser(self._rng), self.scale)
            if self._is_new(architecture):
                self._open[architecture.digest] = None
                return architecture
        self.exhausted = True
        return None

    def _is_new(self, architecture: Architecture) -> bool:
        key = bytes.fromhex(architecture.digest)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def tell(self, architectures: Sequence[Architecture], values: Sequence[float | None]) -> None:
        """Scores of what was asked; None for a failure."""
        import optuna

        for architecture, value in zip(architectures, values, strict=True):
            trial = self._open.pop(architecture.digest)
            if trial is None:
                continue
            if value is None:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                self._study.tell(trial, value)
        self._forget()

    def _forget(self) -> None:
        """A random sampler reads no history: dropping it keeps memory flat at any number of candidates."""
        if self.sampler == "random" and not self._open and len(self._study.get_trials(deepcopy=False)) >= FORGET:
            self._study = self._new_study()

    def _chooser(self, trial: optuna.trial.Trial) -> Chooser:
        def pick(name: str, options: tuple[Choice, ...]) -> Choice:
            # Optuna knows one set of options a name; a space's may depend on earlier decisions
            known = self._options.setdefault(name, options)
            chosen: Any = trial.suggest_categorical(name if options == known else f"{name} of {options}", options)
            return options[options.index(chosen)]

        return Chooser(pick)
