"""The same training in fastbp and in what else one can install, each behind the same calls; see training.py.

A learner is made for one case. `prepare` takes data and seed, and is not timed; `fit` trains, from arrays to a model;
`outputs` gives probabilities or numbers. All start from the same parameters and have the same hyper-parameters; only
the order of the shuffled rows is each one's own.
"""

from __future__ import annotations

import itertools
import warnings
from typing import Any

from training_cases import Array, Case, start


class Learner:
    """A library on one case; see the module's text for what the calls do."""

    name = ""

    def __init__(self, case: Case, threads: int) -> None:
        self.case = case

    @classmethod
    def fits(cls, case: Case) -> bool:
        """Say whether this library has such a training."""
        return True

    def prepare(self, X: Array, y: Array, seed: int, epochs: int, shuffle: bool) -> None:
        """Make ready for a fit."""
        raise NotImplementedError

    def fit(self) -> None:
        """Train."""
        raise NotImplementedError

    def outputs(self, X: Array) -> Array:
        """Return probabilities, or numbers in one column."""
        raise NotImplementedError


class Sklearn(Learner):
    """scikit-learn's MLPClassifier or MLPRegressor."""

    name = "scikit-learn"

    def _module(self) -> Any:
        import sklearn.neural_network

        return sklearn.neural_network

    def prepare(self, X: Array, y: Array, seed: int, epochs: int, shuffle: bool) -> None:
        case, module = self.case, self._module()
        settings: dict[str, Any] = {}
        if case.solver != "lbfgs":
            batch = "auto" if case.batch == 200 else case.batch  # auto is 200, or all rows if there are fewer
            settings = {"batch_size": batch, "learning_rate_init": case.rate, "shuffle": shuffle}
            if not case.early:
                settings["n_iter_no_change"] = epochs
        self.X, self.y = X, y
        self.model = (module.MLPClassifier if case.classes else module.MLPRegressor)(
            hidden_layer_sizes=case.hidden,
            activation=case.activation,
            solver=case.solver,
            alpha=case.alpha,
            max_iter=epochs,
            early_stopping=case.early,
            random_state=seed,
            **settings,
        )

    def fit(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            self.model.fit(self.X, self.y)

    def outputs(self, X: Array) -> Array:
        return self.model.predict_proba(X) if self.case.classes else self.model.predict(X)[:, None]


class FastbpSklearn(Sklearn):
    """The estimators of fastbp.sklearn: the same call, another import."""

    name = "fastbp.sklearn"

    def __init__(self, case: Case, threads: int) -> None:
        import fastbp

        fastbp.set_num_threads(threads)
        super().__init__(case, threads)

    def _module(self) -> Any:
        import fastbp.sklearn

        return fastbp.sklearn


class Fastbp(Learner):
    """net.fit."""

    name = "fastbp"

    def __init__(self, case: Case, threads: int) -> None:
        import fastbp

        fastbp.set_num_threads(threads)
        self.case, self.fastbp = case, fastbp

    @classmethod
    def fits(cls, case: Case) -> bool:
        return not case.early

    def prepare(self, X: Array, y: Array, seed: int, epochs: int, shuffle: bool) -> None:
        case, fastbp = self.case, self.fastbp
        self.X, self.y = X, y
        self.net = fastbp.MLP(
            case.sizes,
            activation={"logistic": "sigmoid"}.get(case.activation, case.activation),
            output_activation="softmax" if case.classes else "identity",
            loss="cross_entropy" if case.classes else "squared_error",
            dtype=case.numpy_dtype,
        )
        self.net.parameters[:] = start(case, seed)
        if case.solver == "adam":
            self.optimizer = fastbp.Adam(learning_rate=case.rate)
        elif case.solver == "sgd":
            self.optimizer = fastbp.SGD(learning_rate=case.rate, momentum=0.9, nesterov=True)
        else:
            self.optimizer = fastbp.LBFGS(gtol=1e-4)  # scikit-learn's default
        self.settings = {"epochs": epochs, "batch_size": min(case.batch, len(X)), "shuffle": shuffle, "rng": seed}

    def fit(self) -> None:
        self.net.fit(self.X, self.y, optimizer=self.optimizer, penalty=self.case.alpha, **self.settings)

    def outputs(self, X: Array) -> Array:
        return self.net(X)


class Torch(Learner):
    """A plain PyTorch loop: shuffled indices, a module, its loss, backward, a fused optimizer."""

    name = "torch"

    def __init__(self, case: Case, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.case, self.torch = case, torch

    @classmethod
    def fits(cls, case: Case) -> bool:
        return not case.early and case.solver != "lbfgs"

    def prepare(self, X: Array, y: Array, seed: int, epochs: int, shuffle: bool) -> None:
        case, torch, nn = self.case, self.torch, self.torch.nn
        self.X, self.y = torch.from_numpy(X), torch.from_numpy(y if case.classes else y[:, None])
        self.epochs, self.shuffle, self.batch = epochs, shuffle, min(case.batch, len(X))
        activate = {"relu": nn.ReLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid}[case.activation]
        layers, flat, at = [], torch.from_numpy(start(case, seed)), 0
        for n, m in itertools.pairwise(case.sizes):
            layer = nn.Linear(n, m, dtype=flat.dtype)
            with torch.no_grad():
                layer.weight.copy_(flat[at : at + n * m].reshape(n, m).T)
                layer.bias.copy_(flat[at + n * m : at + (n + 1) * m])
            at += (n + 1) * m
            layers += [layer, activate()]
        self.net = nn.Sequential(*layers[:-1])
        linear = layers[::2]
        groups = [
            {"params": [layer.weight for layer in linear], "weight_decay": case.alpha / self.batch},
            {"params": [layer.bias for layer in linear], "weight_decay": 0.0},
        ]
        if case.solver == "adam":
            self.optimizer = torch.optim.Adam(groups, lr=case.rate, fused=True)
        else:
            self.optimizer = torch.optim.SGD(groups, lr=case.rate, momentum=0.9, nesterov=True, fused=True)
        mean_square = nn.MSELoss()
        self.loss = nn.CrossEntropyLoss() if case.classes else lambda y, t: 0.5 * mean_square(y, t)
        torch.manual_seed(seed)

    def fit(self) -> None:
        rows, self.losses = len(self.X), []
        for _ in range(self.epochs):
            order = self.torch.randperm(rows) if self.shuffle else self.torch.arange(rows)
            total = 0.0
            for batch in order.split(self.batch):
                loss = self.loss(self.net(self.X[batch]), self.y[batch])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                total += loss.item() * len(batch)
            self.losses.append(total / rows)

    def outputs(self, X: Array) -> Array:
        with self.torch.no_grad():
            y = self.net(self.torch.from_numpy(X))
            return (y.softmax(dim=1) if self.case.classes else y).numpy()


LEARNERS: dict[str, type[Learner]] = {learner.name: learner for learner in (FastbpSklearn, Fastbp, Sklearn, Torch)}
PEERS = ("scikit-learn", "torch")
PACKAGES = {"torch": "torch", "scikit-learn": "sklearn"}
