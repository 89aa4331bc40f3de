"""Time whole trainings in fastbp, scikit-learn and PyTorch: the same data, parameters to start from and settings.

    python bench/training.py              all cases, five seeds each
    python bench/training.py --quick      two small cases, two seeds
    python bench/training.py --epochs     only epochs of net.fit against their steps
    python bench/training.py --save       all; kept in bench/results as training-<kind of machine>.json; with --epochs
                                          these alone are renewed in it

As in run.py, everyone has two threads and a process of its own, and all wait while one works. Before a case is timed,
everyone trains for two epochs, on 2000 rows at most, without shuffling: from the same parameters that must lead to the
same loss. Then, seed after seed, each in turn is timed from arrays to a trained model, and scored on rows held out.
Last, an epoch of net.fit is timed against its steps alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from run import RESULTS, Worker, _control, _others, _tidy_environment, answer, machine, save

# Relative differences up to which losses after the same steps are the same. There are two formulas of Adam:
# scikit-learn's estimators add eps to the uncorrected root of v, PyTorch and net.fit to the corrected one, which shows
# where pixels are hardly ever set; so ours are compared with who has the same.
AGREEMENT = {"f64": 1e-6, "f32": 1e-3}
AGREEMENT_ADAMS = 1e-2
SAME_ADAM = {"fastbp.sklearn": "scikit-learn", "fastbp": "torch"}
CHECKED = 2000  # rows, at most: rounding grows from step to step
LEAST = 0.2  # seconds: what is done sooner is timed again, up to REPEATS times, and the best time counts
REPEATS = 5


def serve(pipe: Connection, name: str, threads: int) -> None:
    """Serve one learner: make it for a case; train, time and score it."""
    from learners import LEARNERS
    from training_cases import load

    learner: Any = None
    case: Any = None
    data: Any = None

    def one(request: str, argument: Any) -> Any:
        nonlocal learner, case, data
        if request == "build":
            case = argument
            learner = LEARNERS[name](case, threads)
            data = load(case, 0)
            X, y = data[0][:CHECKED], data[1][:CHECKED]
            epochs = min(case.epochs, 10 if case.solver == "lbfgs" else 2)
            learner.prepare(X, y, 0, epochs, shuffle=False)
            learner.fit()
            return loss_and_score(learner.outputs(X), y)[0]
        if request == "fit":
            if case.data != "fashion":  # whose rows are the same for all seeds
                data = load(case, argument)
            X, y, X_held, y_held = data
            taken: list[float] = []
            while sum(taken) < LEAST and len(taken) < REPEATS:
                learner.prepare(X, y, argument, case.epochs, shuffle=True)
                begin = time.perf_counter()
                learner.fit()
                taken.append(time.perf_counter() - begin)
            return (min(taken), *loss_and_score(learner.outputs(X_held), y_held))
        if request == "epoch":
            return epoch_against_steps(*argument, threads)
        return one_row(LEARNERS[name](argument, threads), *load(argument, 0)[:2])

    answer(pipe, one)


def loss_and_score(outputs: Any, y: Any) -> tuple[float, float]:
    """Return cross-entropy and accuracy of probabilities, or half the mean square and R2 of numbers."""
    import numpy as np

    if outputs.shape[1] == 1:
        square = float(np.mean((outputs[:, 0] - y) ** 2))
        return 0.5 * square, 1 - square / float(np.var(y))
    true = outputs[np.arange(len(y)), y].astype(float)
    return -float(np.log(np.maximum(true, 1e-30)).mean()), float((outputs.argmax(axis=1) == y).mean())


def epoch_against_steps(rows: int, sizes: tuple[int, ...], batch: int, dtype: str, threads: int) -> dict[str, float]:
    """Time an epoch of net.fit, shuffled; its steps called from Python; and compiled steps over the rows as they lie.

    Returns seconds, the best of all rounds.  All three do equally much before the clock is read: the less one does, the
    likelier it has some moment for itself in which nothing disturbs it.
    """
    import numpy as np

    import fastbp

    fastbp.set_num_threads(threads)
    rng = np.random.default_rng(0)
    real = np.float32 if dtype == "f32" else np.float64
    X, Y = rng.normal(size=(rows, sizes[0])).astype(real), rng.integers(sizes[-1], size=rows)
    net = fastbp.MLP(sizes, output_activation="softmax", loss="cross_entropy", dtype=real, rng=0)
    optimizer = fastbp.Adam()
    batches = [(X[i : i + batch], Y[i : i + batch]) for i in range(0, rows, batch)]
    losses = np.empty(len(batches))
    checked = net._batch(X, Y, None)

    def steps() -> None:
        for _ in range(EPOCHS_AT_ONCE):
            for x, y in batches:
                net.train_step(x, y, optimizer)

    def in_order() -> None:
        for _ in range(EPOCHS_AT_ONCE):
            end = 0
            while end < rows:
                end, _ = net._run_batches(*checked, optimizer, None, end, batch, losses)

    calls = {
        "epoch": lambda: net.fit(X, Y, epochs=EPOCHS_AT_ONCE, batch_size=batch, optimizer=optimizer, rng=0),
        "steps": steps,
        "in order": in_order,
    }
    best = dict.fromkeys(calls, float("inf"))
    begun, rounds = time.perf_counter(), 0
    while rounds < 7 or time.perf_counter() - begun < 2:
        rounds += 1
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            best[name] = min(best[name], (time.perf_counter() - begin) / EPOCHS_AT_ONCE)
    return best


EPOCHS_AT_ONCE = 3


def measure_epochs(worker: Worker, shapes: Any) -> list[dict[str, Any]]:
    """Have one learner time an epoch of each shape against its steps."""
    return [
        {
            "name": f"{shape[0]:,} x {'-'.join(map(str, shape[1]))} {shape[3]}, batch {shape[2]}",
            "seconds": worker.ask("epoch", shape),
        }
        for shape in shapes
    ]


def one_row(learner: Any, X: Any, y: Any) -> float:
    """Time partial_fit of one row, in seconds: the best block of calls."""
    import numpy as np
    from peers import best_time

    learner.prepare(X, y, 0, 1, shuffle=False)
    row, target = X[:1], y[:1]
    learner.model.partial_fit(row, target, classes=np.unique(y))
    return best_time(lambda: learner.model.partial_fit(row, target), 0.5)[0]


def compare(case: Any, workers: list[Worker], seeds: int) -> dict[str, Any]:
    """Train one case in every way and for every seed.

    Parameters
    ----------
    case : training_cases.Case
        What to train.
    workers : list of Worker
        The learners; scikit-learn first, and a peer before ours.
    seeds : int
        How many.

    Returns
    -------
    dict
        For each learner the seconds, losses and scores of every seed, or why there are none.
    """
    from learners import LEARNERS

    found: dict[str, Any] = {}
    running: list[Worker] = []
    losses: dict[str, float] = {}
    for worker in workers:
        if not LEARNERS[worker.name].fits(case):
            found[worker.name] = {"missing": "has no such training"}
            continue
        try:
            loss = worker.ask("build", case)
        except RuntimeError as error:
            found[worker.name] = {"missing": str(error)}
            print(f"    {worker.name}: {error}", file=sys.stderr)
            continue
        reference = SAME_ADAM.get(worker.name, "")
        if reference not in losses:
            reference = next(iter(losses), worker.name)
        losses[worker.name] = loss
        apart = abs(loss - losses[reference]) / losses[reference]
        found[worker.name] = {"loss_apart": apart}
        other = case.solver == "adam" and reference != SAME_ADAM.get(worker.name)
        if not apart <= (AGREEMENT_ADAMS if other else AGREEMENT[case.dtype]):
            found[worker.name]["missing"] = f"disagrees: loss {loss:.8g}, {reference} {losses[reference]:.8g}"
            print(f"    {worker.name} {found[worker.name]['missing']}", file=sys.stderr)
            continue
        found[worker.name] |= {"seconds": [], "losses": [], "scores": []}
        running.append(worker)
    control = []
    begin, others = time.perf_counter(), _others(workers)
    for seed in range(seeds):
        for worker in list(running):
            time.sleep(0.03)  # threads of the one before stop spinning
            control.append(_control())
            try:
                answer = worker.ask("fit", seed)
            except RuntimeError as error:
                running.remove(worker)
                found[worker.name] = {"missing": str(error)}
                print(f"    {worker.name}: {error}", file=sys.stderr)
                continue
            for key, value in zip(("seconds", "losses", "scores"), answer, strict=True):
                found[worker.name][key].append(value)
    others = (_others(workers) - others) / (time.perf_counter() - begin)
    return {
        "name": case.name,
        "control_spread": sorted(control)[len(control) // 2] / min(control) - 1,
        "others": round(others, 3),
        "learners": found,
    }


def main() -> int:
    """Run the comparison; 1 if fastbp failed or disagreed somewhere."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="for everyone (default 2)")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each case (default 5)")
    parser.add_argument("--case", action="append", help="only those whose name contains this")
    parser.add_argument("--quick", action="store_true", help="two small cases, two seeds")
    parser.add_argument("--epochs", action="store_true", help="only epochs of net.fit against their steps")
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--output", type=Path, help="write the result here")
    options = parser.parse_args()
    if options.save and (options.case or options.quick):
        parser.error("--save keeps whole results only: without --case and --quick")
    _tidy_environment(options.threads)

    import training_table as table
    from learners import LEARNERS, PACKAGES, PEERS
    from training_cases import CASES, EPOCHS, QUICK, Absent, fashion_folder

    if options.epochs:
        worker = Worker("fastbp", options.threads, serve)
        measured = measure_epochs(worker, EPOCHS)
        worker.end()
        about = machine(options.threads)
        result: dict[str, Any] = {"machine": about, "training": [], "epochs": measured, "row": {}}
        print(table.epochs(result))
        kept = RESULTS / f"training-{about['kind']}.json"
        if options.save:
            save(json.loads(kept.read_text(encoding="utf-8")) | {"epochs": measured}, kept)
        return 0
    cases = list(QUICK if options.quick else CASES)
    if options.case:
        cases = [case for case in cases if any(part in case.name for part in options.case)]
    if any(case.data == "fashion" for case in cases):
        try:
            fashion_folder()
        except Absent as error:
            print(f"Fashion-MNIST is absent, its cases are skipped: {error}\n", file=sys.stderr)
            cases = [case for case in cases if case.data != "fashion"]
    present = [name for name in LEARNERS if not (p := PACKAGES.get(name)) or importlib.util.find_spec(p)]
    if "scikit-learn" not in present:
        parser.error("scikit-learn is not installed: `make bench-training` installs all")
    order = [name for name in (*PEERS, *LEARNERS) if name in present]
    order = list(dict.fromkeys(order))  # peers first: ours must agree with them
    print(f"not installed, skipped: {', '.join(set(LEARNERS) - set(order))}\n" if len(order) < len(LEARNERS) else "")

    about = machine(options.threads)
    result = {"machine": about, "training": [], "epochs": [], "row": {}}
    workers = [Worker(name, options.threads, serve) for name in order]
    print(table.header(result), flush=True)
    for case in cases:
        result["training"].append(compare(case, workers, 2 if options.quick else options.seeds))
        print(table.line(result["training"][-1]), flush=True)
    print("\n" + table.summary(result))
    if not options.case:
        by_name = {worker.name: worker for worker in workers}
        try:
            result["epochs"] = measure_epochs(by_name["fastbp"], EPOCHS)
            result["row"] = {name: by_name[name].ask("row", CASES[0]) for name in ("fastbp.sklearn", "scikit-learn")}
        except RuntimeError as error:
            print(f"    {error}", file=sys.stderr)
        print(f"\n{table.epochs(result)}\n\n{table.row(result)}")
    for worker in workers:
        worker.end()
    if options.save or options.output:
        save(result, options.output or RESULTS / f"training-{about['kind']}.json")
    ours = [entry["learners"][name] for entry in result["training"] for name in ("fastbp.sklearn", "fastbp")]
    return int(any("has no" not in found.get("missing", "has no") for found in ours))


if __name__ == "__main__":
    sys.exit(main())
