"""Optuna's samplers: TPE, NSGA-II and NSGA-III.

Optuna keeps a study that grows and a generator that runs on. Here every batch gets a study and a sampler of its own,
made from a window of what was told: memory and the time of a proposal do not grow with the search, and a sampler that
is restored proposes what the one that was saved would have, since both make the same study. Optuna is imported when
the first proposal is made.
"""

from __future__ import annotations

import abc
import datetime
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hypernas.engine.samplers.base import Sampler, Told
from hypernas.engine.samplers.mutation import options_of
from hypernas.graphs.architecture import Architecture
from hypernas.spaces.space import Choice, Chooser, Scale, SearchSpace

if TYPE_CHECKING:
    import optuna

__all__ = ["NSGA2Sampler", "NSGA3Sampler", "TPESampler"]

WINDOW = 1_000  # newest proposals that TPE models: its time for one grows with their number
POPULATION = 50  # Optuna's own for NSGA-II and NSGA-III
REFRESH = 50  # infeasible proposals within one batch after which what they taught is used
NO_TIME = datetime.datetime(2000, 1, 1)  # trials carry times, which nothing here reads


class _Kept(dict[str, Any]):
    """Parameters of a finished trial. A storage copies the trials that it is given, deeply; these never change."""

    def __deepcopy__(self, memo: object) -> _Kept:
        return self


class _OptunaSampler(Sampler):
    """A study for each batch, made by ``_fill``; infeasible proposals within a batch make it anew now and then."""

    def __init__(self, space: SearchSpace, scale: Scale, seed: int, n_objectives: int = 1) -> None:
        self._study: optuna.Study | None = None
        self._parameters: dict[tuple[str, tuple[Choice, ...]], str] = {}  # decision -> Optuna's name for it
        self._distributions: dict[int, optuna.distributions.CategoricalDistribution] = {}
        self._trials: dict[int, optuna.trial.FrozenTrial] = {}  # made once for each of the window
        self._trial: optuna.trial.Trial | None = None  # the last proposal
        self._architecture: Architecture | None = None
        super().__init__(space, scale, seed, n_objectives)

    @abc.abstractmethod
    def _make(self, seed: int) -> optuna.samplers.BaseSampler:
        """A new sampler of Optuna's."""

    @abc.abstractmethod
    def _fill(self, study: optuna.Study) -> None:
        """Add the trials of the window, in an order that depends on nothing but what was told."""

    @abc.abstractmethod
    def _window(self) -> Iterable[int]:
        """The numbers in it."""

    def begin(self, batch: int) -> None:
        super().begin(batch)
        self._study, self._n_infeasible = None, 0
        self._trial = self._architecture = None

    def _begun(self) -> optuna.Study:
        """The study of this batch."""
        if self._study is None or self._n_infeasible >= REFRESH:
            self._n_infeasible = 0
            self._study = self._new_study()
            self._fill(self._study)
            window = set(self._window())
            self._trials = {number: trial for number, trial in self._trials.items() if number in window}
        return self._study

    def _new_study(self) -> optuna.Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of every conditional decision that TPE meets
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self._make(self.rng.getrandbits(32))
        return optuna.create_study(directions=["maximize"] * self.n_objectives, sampler=sampler)

    def propose(self) -> Architecture:
        self._drop()
        study = self._begun()
        self._trial = trial = study.ask()

        def pick(name: str, options: tuple[Choice, ...]) -> Choice:
            if len(options) == 1:
                return options[0]
            # by index: Optuna takes True and 1 for the same choice
            chosen: Any = trial.suggest_categorical(self._parameter(name, options), range(len(options)))
            return options[int(chosen)]

        self._architecture = self.space.candidate(Chooser(pick), self.scale)
        return self._architecture

    def _drop(self) -> None:
        """A proposal that was not accepted does not stay open in the study."""
        import optuna

        if self._study is not None and self._trial is not None:
            self._study.tell(self._trial, state=optuna.trial.TrialState.FAIL)
        self._trial = self._architecture = None

    def accept(self, number: int, architecture: Architecture) -> None:
        if architecture is self._architecture:
            self._trial = self._architecture = None

    def _parameter(self, name: str, options: tuple[Choice, ...]) -> str:
        """Optuna knows one set of options a name; a space's may depend on earlier decisions."""
        return self._parameters.setdefault((name, options), f"{name} {json.dumps(options)}")

    def _distribution(self, n_options: int) -> optuna.distributions.CategoricalDistribution:
        """One object for all that are equal: there are a window times the decisions of them."""
        import optuna

        if n_options not in self._distributions:
            self._distributions[n_options] = optuna.distributions.CategoricalDistribution(range(n_options))
        return self._distributions[n_options]

    def _frozen(self, told: Told, worst: tuple[float, ...], generation: Mapping[str, int]) -> optuna.trial.FrozenTrial:
        """A trial with what was told.

        Args:
            worst: values for one that has none, being infeasible: Optuna wants some, and prefers feasible ones anyhow.
            generation: system attributes.
        """
        import optuna

        state = optuna.trial.TrialState.RUNNING if told.state == "open" else optuna.trial.TrialState.COMPLETE
        trial = self._trials.get(told.number)
        if trial is None or trial.state != state:
            given = options_of(self.space, self.scale, told.decisions)
            names = {name: self._parameter(name, options) for name, options in given.items() if len(options) > 1}
            trial = optuna.trial.FrozenTrial(
                number=-1,
                trial_id=-1,
                state=state,
                value=None,
                datetime_start=NO_TIME,
                datetime_complete=None if told.state == "open" else NO_TIME,
                params=_Kept({key: given[name].index(told.decisions[name]) for name, key in names.items()}),
                distributions=_Kept({key: self._distribution(len(given[name])) for name, key in names.items()}),
                user_attrs={},
                system_attrs={},
                intermediate_values={},
            )
            if state == optuna.trial.TrialState.COMPLETE:
                trial.set_constraint("limits", told.violation)
            self._trials[told.number] = trial
        if state == optuna.trial.TrialState.COMPLETE:
            trial.values = list(told.values if told.values is not None else worst)
            trial.system_attrs = {**trial.system_attrs, **generation}
        return trial

    def _add(self, study: optuna.Study, many: Iterable[tuple[Told, Mapping[str, int]]]) -> None:
        listed = list(many)
        scored = [told.values for told, _ in listed if told.values is not None]
        worst = tuple(map(min, zip(*scored, strict=True))) if scored else (0.0,) * self.n_objectives
        study.add_trials([self._frozen(told, worst, attributes) for told, attributes in listed])

    def tell(self, told: Sequence[Told]) -> None:
        super().tell(told)
        self._n_infeasible += sum(one.state == "infeasible" for one in told)


class TPESampler(_OptunaSampler):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), of the newest ``WINDOW`` proposals.

    Those that are open count as bad ones until they are told ("constant liar"), so that a batch does not crowd.
    """

    def __init__(self, space: SearchSpace, scale: Scale, seed: int, n_objectives: int = 1) -> None:
        self._newest: dict[int, Told] = {}
        super().__init__(space, scale, seed, n_objectives)

    def _make(self, seed: int) -> optuna.samplers.BaseSampler:
        import optuna

        # multivariate: one model for all parameters, made once a proposal instead of once a parameter
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)

    def _window(self) -> Iterable[int]:
        return self._newest

    def _fill(self, study: optuna.Study) -> None:
        newest = sorted(self._newest.items())
        self._add(study, ((told, {}) for _, told in newest if told.counts or told.state in ("open", "infeasible")))

    def accept(self, number: int, architecture: Architecture) -> None:
        super().accept(number, architecture)
        assert architecture.decisions is not None
        self._remember(Told(number, architecture.decisions, "open"))

    def _remember(self, told: Told) -> None:
        if len(self._newest) >= WINDOW and told.number not in self._newest:
            oldest = min(self._newest)
            if told.number < oldest:
                return
            del self._newest[oldest]
        self._newest[told.number] = told


class _GeneticSampler(_OptunaSampler):
    """Generations: parents, and what was told since they were chosen.

    Once ``POPULATION`` are told, the best of both become the parents of the next generation. What counts to the present
    one is everything told since: proposals after the parents were chosen, and those that were open then.
    """

    def __init__(self, space: SearchSpace, scale: Scale, seed: int, n_objectives: int = 1) -> None:
        self._parents: dict[int, Told] = {}
        self._current: dict[int, Told] = {}
        self._first = 0  # proposals of this generation begin here ...
        self._late: set[int] = set()  # ... and these were open when the last one ended
        self._next = 0
        self._open: set[int] = set()
        super().__init__(space, scale, seed, n_objectives)

    def _window(self) -> Iterator[int]:
        yield from self._parents
        yield from self._current

    def _fill(self, study: optuna.Study) -> None:
        if len(self._current) >= POPULATION:
            self._turn_over()
        self._populate(study)

    def _populate(self, study: optuna.Study) -> list[Told]:
        """The parents are generation 0 and the present one is 1; or 0 where there are no parents yet: it is random."""
        sampler: Any = study.sampler
        key = sampler._get_generation_key()  # there is no public way to say which generation a trial is of
        parents = [(told, {key: 0}) for _, told in sorted(self._parents.items())]
        current = [(told, {key: 1 if parents else 0}) for _, told in sorted(self._current.items())]
        self._add(study, [*parents, *current])
        return [told for told, _ in [*parents, *current]]

    def _turn_over(self) -> None:
        study = self._new_study()
        listed = self._populate(study)
        sampler: Any = study.sampler
        chosen = sampler.get_parent_population(study, 2 if self._parents else 1)
        self._parents = {listed[trial.number].number: listed[trial.number] for trial in chosen}
        self._current = {}
        self._first, self._late = self._next, set(self._open)

    def accept(self, number: int, architecture: Architecture) -> None:
        super().accept(number, architecture)
        self._open.add(number)
        self._next = max(self._next, number + 1)

    def _remember(self, told: Told) -> None:
        self._next = max(self._next, told.number + 1)
        if told.state == "open":
            self._open.add(told.number)
            return
        self._open.discard(told.number)
        if (told.number >= self._first or told.number in self._late) and (told.counts or told.state == "infeasible"):
            self._current[told.number] = told

    def state(self) -> dict[str, Any]:
        return {"parents": sorted(self._parents), "first": self._first, "late": sorted(self._late)}

    def restore(self, state: Mapping[str, Any], past: Iterable[Told]) -> None:
        parents = set(map(int, state["parents"]))
        self._first, self._late = int(state["first"]), set(map(int, state["late"]))
        for told in past:
            if told.number in parents:
                self._parents[told.number] = told
            self._remember(told)


class NSGA2Sampler(_GeneticSampler):
    """NSGA-II (Deb et al. 2002): fronts, then crowding; crossover and mutation of the parents' decisions."""

    def _make(self, seed: int) -> optuna.samplers.BaseSampler:
        import optuna

        return optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)


class NSGA3Sampler(_GeneticSampler):
    """NSGA-III (Deb and Jain 2014): as NSGA-II, spread by reference points instead of crowding."""

    def _make(self, seed: int) -> optuna.samplers.BaseSampler:
        import optuna

        return optuna.samplers.NSGAIIISampler(seed=seed, population_size=POPULATION)
