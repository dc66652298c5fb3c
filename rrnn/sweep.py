"""A sweep: trials of a space's configurations, compared on the validation clips alone, of which the winner is tested, once.

A sweep is a folder, on disk or in a bucket, and what is in it is the only ledger:

sweep.json             settings; every trial's configuration and validation figures; the winner; when the test set was opened
trials/0000/           a RUN folder (rrnn.run) whose test set is closed, or open if it won
trials/0000/trial.json what was drawn for it, written before it is trained
trials/0000/failed.json   why it has no result, where training diverged or memory ran out
trials/0000/checkpoint.zip   while it is unfinished: what it resumes from

Trial i is drawn from the seed, i, and the trials before it; by Optuna, from the figures of the trials up to i - lag as well,
and of no others, whoever finished first. So a sweep that was killed and resumed draws what it would have drawn. A trial that is
stopped early is compared with those that had come as far by then: that depends on timing, unless one trial runs at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np

from rrnn.config import Config, config_from_dict, merge
from rrnn.data import ClipSet, StoreIndex
from rrnn.results import CLASSIFICATION, REGRESSION
from rrnn.run import RunFolder
from rrnn.spaces import Choices, Dimension, Space, Value, show, space_from_dict
from rrnn.train import open_test

FORMAT = 1
REDRAWS = 200
"""How often a configuration that was drawn before is drawn again before the space is taken to have no other."""
RANDOM_STARTS = 10
"""Results that Optuna's sampler waits for before it goes by them."""
LOWER_IS_BETTER = {"loss": True} | {m.key: m.kind == "number" for m in (*CLASSIFICATION, *REGRESSION)}
"""Of the validation figures that a sweep can go by, whether less is better. loss: the one that training minimises."""

State = Literal["done", "stopped", "failed", "unfinished"]


@dataclass(frozen=True)
class Settings:
    """What a sweep is. Only the number of its trials may grow later."""

    store: str
    space: dict[str, Any]
    """As a space's file."""
    epochs: int
    """The most that a trial may train."""
    search: Literal["optuna", "random"] = "random"
    seed: int = 0
    metric: str = "loss"
    """The figure on the validation clips, at a trial's best epoch by validation loss, that trials are compared by."""
    asha: bool = True
    """Whether trials are stopped early that do worse than others did after as many epochs."""
    grace: int = 4
    """Epochs before a trial may be stopped; again at `reduction` times as many, and so on."""
    reduction: int = 3
    """A trial goes on at such an epoch if it is among the best 1/reduction of those that came as far."""
    lag: int = 4
    """Optuna draws trial i from the figures of the trials up to i - lag; twice the trials that run at a time."""

    def __post_init__(self) -> None:
        if self.metric not in LOWER_IS_BETTER:
            raise ValueError(f"unknown metric {self.metric!r}: expected one of {', '.join(LOWER_IS_BETTER)}")
        if self.search not in ("optuna", "random"):
            raise ValueError(f"unknown search {self.search!r}: expected optuna or random")
        if self.metric == "loss" and "train.loss" in self.opened_space.varying():
            raise ValueError("train.loss varies, and losses of two kinds can't be compared: name another --metric")

    @cached_property
    def opened_space(self) -> Space:
        return space_from_dict(self.space, self.space["name"])

    @property
    def lower_is_better(self) -> bool:
        return LOWER_IS_BETTER[self.metric]

    @property
    def rungs(self) -> list[int]:
        """The epochs after which a trial may be stopped."""
        found, epoch = [], self.grace
        while self.asha and epoch < self.epochs:
            found.append(epoch)
            epoch *= self.reduction
        return found

    def better(self, a: float, b: float) -> bool:
        return a < b if self.lower_is_better else a > b

    def figure(self, history: Sequence[dict[str, Any]]) -> float | None:
        """The validation figure at the best epoch by validation loss, of the given lines of metrics.jsonl; None if there is no
        best epoch yet."""
        best = [line for line in history if line["best"]]
        if not best:
            return None
        value = float(best[-1][f"valid_{self.metric}"])
        return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Trial:
    """What its folder says of one trial."""

    number: int
    choices: Choices | None
    """None where it was not drawn yet."""
    state: State
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] | None = None
    reason: str | None = None

    @property
    def name(self) -> str:
        return name_of(self.number)

    @property
    def over(self) -> bool:
        return self.state != "unfinished"

    @property
    def shown(self) -> str:
        return " ".join(f"{k.partition('.')[2]}={show(v)}" for k, v in (self.choices or {}).items())


@dataclass(frozen=True)
class Opening:
    """The test set was opened: for which trial, when there were how many. test: its figures, None until they are there."""

    trial: int
    trials: int
    at: str
    model_id: str
    test: dict[str, Any] | None = None


def name_of(number: int) -> str:
    return f"{number:04d}"


def drawn_at_random(space: Space, seed: int, number: int, before: Sequence[Choices]) -> Choices | None:
    """What trial `number` is, unlike all before it; None where the space seems to have no other."""
    random = np.random.default_rng([seed, number])
    for _ in range(REDRAWS):
        choices = space.draw(lambda _, dimension: dimension.draw(random))
        if choices not in before:
            return choices
    return None


def drawn_by_optuna(
    space: Space,
    seed: int,
    number: int,
    before: Sequence[Choices],
    told: Sequence[tuple[Choices, float]],
    lower_is_better: bool,
) -> Choices | None:
    """What trial `number` is by the tree-structured Parzen estimator, given the figures of earlier trials; the same for the
    same arguments."""
    import optuna  # here: it takes a second to import, and random search does without
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def distribution(d: Dimension) -> Any:
        if d.kind == "choice":
            return CategoricalDistribution(d.values)
        low, high = d.bounds
        if d.kind == "int":
            return IntDistribution(int(low), int(high))
        return FloatDistribution(low, high, log=d.kind == "loguniform")

    def pick(trial: optuna.Trial, key: str, d: Dimension) -> Value:
        if d.kind == "choice":
            return trial.suggest_categorical(key, d.values)
        low, high = d.bounds
        if d.kind == "int":
            return trial.suggest_int(key, int(low), int(high))
        return trial.suggest_float(key, low, high, log=d.kind == "loguniform")

    sampler = optuna.samplers.TPESampler(
        seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]), n_startup_trials=RANDOM_STARTS
    )
    study = optuna.create_study(sampler=sampler, direction="minimize" if lower_is_better else "maximize")
    for choices, value in told:
        of = {key: distribution(space.dimensions[key]) for key in choices}
        study.add_trial(optuna.trial.create_trial(params=choices, distributions=of, value=value))
    for _ in range(REDRAWS // 10):
        trial = study.ask()
        choices = space.draw(partial(pick, trial))
        if choices not in before:
            return choices
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return drawn_at_random(space, seed, number, before)


def goes_on(mine: float | None, others: Sequence[float], reduction: int, better: Callable[[float, float], bool]) -> bool:
    """The rule of asynchronous successive halving (Li et al. 2020): whether a trial is among the best 1/reduction, rounded up,
    of those that came as far. others: their figures. A trial without a figure is not."""
    if mine is None:
        return False
    return sum(better(other, mine) for other in others) < math.ceil((len(others) + 1) / reduction)


class Sweep:
    """A sweep's folder."""

    def __init__(self, url: str) -> None:
        self.folder = RunFolder(url)

    @property
    def url(self) -> str:
        return self.folder.url

    def run_folder(self, number: int) -> RunFolder:
        return RunFolder(f"{self.url}/trials/{name_of(number)}")

    def exists(self) -> bool:
        return self.folder.exists("sweep.json")

    def read(self) -> dict[str, Any]:
        """sweep.json. Raises ValueError where there is none that this version reads."""
        if not self.exists():
            raise ValueError(f"{self.url} holds no sweep: expected sweep.json, as jobs.tune writes")
        found = self.folder.read_json("sweep.json")
        if found.get("format") != FORMAT:
            raise ValueError(f"{self.url}/sweep.json has format {found.get('format')}: this version reads format {FORMAT}")
        return found

    def settings(self) -> Settings:
        return Settings(**self.read()["settings"])

    def openings(self) -> list[Opening]:
        return [Opening(**o) for o in self.read()["openings"]] if self.exists() else []

    def begin(self, settings: Settings, trials: int, digest: str) -> None:
        """Raise ValueError where a sweep of other settings, on other data, or of more trials is here; otherwise note it."""
        if self.exists():
            found = self.read()
            then, now = (
                json.loads(json.dumps({**asdict(of), "space": of.opened_space.to_dict()})) for of in (self.settings(), settings)
            )
            different = [f"{k} was {then[k]!r}, now {now[k]!r}" for k in now if then[k] != now[k]]
            if found["data_digest"] != digest:
                different.append("the store holds other data now")
            if different:
                raise ValueError(f"{self.url} holds another sweep ({'; '.join(different)}): choose another --out")
            if len(found["trials"]) > trials:
                raise ValueError(f"{self.url} has {len(found['trials'])} trials: expected as many or more, found {trials}")
        self._write(settings, digest, self.trials(trials), self.openings())

    def trials(self, n: int) -> list[Trial]:
        return [self.trial(i) for i in range(n)]

    def trial(self, number: int) -> Trial:
        run, choices = self.run_folder(number), self._choices(number)
        if choices is None:
            return Trial(number, None, "unfinished")
        if run.exists("failed.json"):
            return Trial(number, choices, "failed", reason=run.read_json("failed.json")["reason"])
        history = self.history(number)
        if not run.exists("summary.json"):
            return Trial(number, choices, "unfinished", history)
        summary = run.read_json("summary.json")
        return Trial(number, choices, "stopped" if summary["stopped"] else "done", history, summary)

    def _choices(self, number: int) -> Choices | None:
        run = self.run_folder(number)
        return run.read_json("trial.json")["choices"] if run.exists("trial.json") else None

    def history(self, number: int) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        run = self.run_folder(number)
        lines = run.read("metrics.jsonl").splitlines() if run.exists("metrics.jsonl") else []
        return [json.loads(line) for line in lines]

    def config(self, settings: Settings, choices: Choices) -> Config:
        """Of a trial."""
        return config_from_dict(merge(settings.opened_space.config(choices).to_dict(), {"train": {"epochs": settings.epochs}}))

    def draw(self, settings: Settings, number: int) -> Choices | Literal["later"] | None:
        """What a trial is: as it was drawn, or drawn now, and noted. None where the space has no other; "later" where it
        depends on trials that are not over."""
        if (there := self._choices(number)) is not None:
            return there
        drawn = [choices for i in range(number) if (choices := self._choices(i)) is not None]
        if settings.search == "random":
            choices = drawn_at_random(settings.opened_space, settings.seed, number, drawn)
        else:
            known = self.trials(max(0, number + 1 - settings.lag))
            if not all(t.over for t in known):
                return "later"
            figures = [(t.choices, settings.figure(t.history)) for t in known]
            told = [(c, f) for c, f in figures if c is not None and f is not None]
            choices = drawn_by_optuna(settings.opened_space, settings.seed, number, drawn, told, settings.lower_is_better)
        if choices is not None:
            self.run_folder(number).write_json("trial.json", {"choices": choices})
        return choices

    def stops(self, settings: Settings, n: int, number: int, history: list[dict[str, Any]]) -> bool:
        """Whether a trial of n ends after the epochs that it has trained."""
        epoch = len(history)
        if epoch not in settings.rungs:
            return False
        others = [self.trial(i) for i in range(n) if i != number]
        came = [settings.figure(t.history[:epoch]) for t in others if len(t.history) >= epoch or t.state == "done"]
        return not goes_on(settings.figure(history), [f for f in came if f is not None], settings.reduction, settings.better)

    def fail(self, number: int, reason: str) -> None:
        self.run_folder(number).write_json("failed.json", {"reason": reason})

    def record(self, n: int) -> list[Trial]:
        """Bring sweep.json up to date with what the folders of n trials say; returns these."""
        found, trials = self.read(), self.trials(n)
        self._write(self.settings(), found["data_digest"], trials, self.openings())
        return trials

    def test(self, n: int, store: StoreIndex, clips: ClipSet) -> Opening | None:
        """Test the winner of n finished trials, if it was not. That the test set is opened is on record before it is.
        Returns what was opened, None where nothing was."""
        settings, openings = self.settings(), self.openings()
        trials = self.trials(n)
        best = winner(settings, trials)
        if best is None or best.summary is None:
            return None
        if best.summary["test"] is None:
            if not openings or openings[-1].trial != best.number:  # else it was killed while it tested
                at = datetime.now(UTC).isoformat(timespec="seconds")
                openings.append(Opening(best.number, n, at, best.summary["model_id"]))
                self._write(settings, clips.digest(), trials, openings)
            best.summary.update(open_test(self.run_folder(best.number).url, store, clips))
        elif any(o.trial == best.number and o.test is not None for o in openings):
            return None
        done = [
            Opening(**{**asdict(o), "test": best.summary["test"]}) if o.trial == best.number and o.test is None else o
            for o in openings
        ]
        self._write(settings, clips.digest(), self.trials(n), done)
        return next((o for o in reversed(done) if o.trial == best.number), None)

    def _write(self, settings: Settings, digest: str, trials: list[Trial], openings: list[Opening]) -> None:
        best = winner(settings, trials)
        rows = [
            {
                "trial": t.name,
                "choices": t.choices,
                "state": t.state,
                "epochs": len(t.history),
                "figure": settings.figure(t.history),
                "valid": next((_valid(line) for line in reversed(t.history) if line["best"]), None),
                "reason": t.reason,
            }
            for t in trials
        ]
        self.folder.write_json(
            "sweep.json",
            {
                "format": FORMAT,
                "settings": asdict(settings),
                "data_digest": digest,
                "trials": rows,
                "winner": None if best is None else best.name,
                "openings": [asdict(o) for o in openings],
            },
        )


def _valid(line: dict[str, Any]) -> dict[str, Value]:
    """The validation figures of a line of metrics.jsonl."""
    return {"epoch": line["epoch"]} | {k.removeprefix("valid_"): v for k, v in line.items() if k.startswith("valid_")}


def winner(settings: Settings, trials: Sequence[Trial]) -> Trial | None:
    """The finished trial with the best validation figure, the first of equals; None where none has one. Never by a test."""
    best: tuple[Trial, float] | None = None
    for trial in trials:
        figure = settings.figure(trial.history) if trial.state in ("done", "stopped") else None
        if figure is not None and (best is None or settings.better(figure, best[1])):
            best = trial, figure
    return best[0] if best else None


def about_the_test(settings: Settings, openings: Sequence[Opening], trials: Sequence[Trial]) -> str:
    """What a reader must know of the test set, in a sentence or two."""
    best = winner(settings, trials)
    chosen = "" if best is None else f"Trial {best.name} has the best validation {settings.metric} of {len(trials)} trials. "
    if not openings:
        return f"{chosen}The test set is closed: no trial was tested."
    *earlier, last = openings
    sentence = f"The test set was opened once, for trial {name_of(last.trial)}, on {last.at}, after all {last.trials} trials."
    if earlier:
        before = ", ".join(f"{name_of(o.trial)} (of {o.trials} trials)" for o in earlier)
        sentence = (
            f"The test set was opened {len(openings)} times, as trials were added and the winner changed: for {before}, then "
            f"for {name_of(last.trial)} (of {last.trials}), on {last.at}. Who adds trials until the test pleases chooses by it."
        )
    if best is not None and best.number != last.trial:
        sentence += " The winner has changed since, and was not tested."
    return chosen + sentence
