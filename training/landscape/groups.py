"""The groups of landscape metrics: each takes models of one epoch and gives rows of the landscape table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, cast

import torch

from phasezoo.errors import MeasureError
from phasezoo.model import Model
from phasezoo.nets.mlp import MLP
from phasezoo.training.data import Split
from phasezoo.training.landscape.averaging import epoch_average, seed_average
from phasezoo.training.landscape.cka import cka, collect_outputs
from phasezoo.training.landscape.connectivity import Path, fit_bezier, learning_rates, mode_connectivity
from phasezoo.training.landscape.hessian import top_eigenvalues, trace
from phasezoo.training.landscape.hvp import HessianOperator
from phasezoo.training.landscape.many_curves import evaluate_many, fit_many
from phasezoo.training.landscape.objective import Objective
from phasezoo.training.landscape.protocols import MeasureProtocol
from phasezoo.training.landscape.replay import Batch
from phasezoo.training.landscape.row import Row, noting, put, row_of, too_few

Group = Callable[[Sequence[Model], int, MeasureProtocol, Objective], list[Row]]


def hessian(models: Sequence[Model], epoch: int, protocol: MeasureProtocol, objective: Objective) -> list[Row]:
    """Trace and largest eigenvalue of the Hessian of each model, on training and test data.

    >>> import phasezoo
    >>> from phasezoo.training.data import load_data
    >>> from phasezoo.training.landscape.objective import objective_of
    >>> from phasezoo.training.landscape.protocols import protocol_for
    >>> zoo = phasezoo.load("mlp-digits").filter(width=4, lr=0.1)
    >>> objective = objective_of(zoo.manifest, zoo[0].config, load_data("digits"))
    >>> rows = hessian(list(zoo), 150, protocol_for("mlp-digits"), objective)
    >>> [row["model_id"] for row in rows], all(row["hessian_trace_train"] > row["hessian_top_ev_train"] for row in rows)
    (['w4-lr0.1-s100', 'w4-lr0.1-s101', 'w4-lr0.1-s102'], True)
    """
    rows = [row_of(model, epoch) for model in models]
    nets = _modules(models, epoch, rows, objective, "hessian_trace_train", "hessian_top_ev_train")
    if not nets:
        return rows
    # Many at once pays for perceptrons only.
    parts = [list(range(len(nets)))] if _perceptrons(nets) and len(nets) > 1 else [[i] for i in range(len(nets))]
    splits = {
        "train": _some(objective.data.train, protocol.train_samples, seed=protocol.seed),
        "val": objective.data.test.take(slice(protocol.test_samples if objective.points is None else 0)),
    }
    for split, part in ((name, part) for name, samples in splits.items() if len(samples) for part in parts):
        with noting([rows[i] for i in part], f"hessian_trace_{split}", f"hessian_top_ev_{split}"):
            batches = splits[split].batches(protocol.batch)
            together = len(part) > 1
            op = HessianOperator(
                [nets[i] for i in part] if together else nets[part[0]], batches=batches, loss=objective.loss
            )
            sums = trace(op, products=protocol.products, seed=protocol.seed)
            top = top_eigenvalues(op, which=protocol.which, rtol=protocol.rtol, seed=protocol.seed)
            for j, i in enumerate(part):
                at = j if together else ()
                put(rows[i], f"hessian_trace_{split}", sums.value[at].item())
                rows[i][f"hessian_trace_{split}_stderr"] = sums.stderr[at].item()
                put(rows[i], f"hessian_top_ev_{split}", top.values[at][..., 0].item())
                rows[i][f"hessian_top_ev_{split}_error"] = top.errors[at][..., 0].item()
                if not top.converged:
                    why = f"not within {protocol.rtol:g} after {top.products} products"
                    rows[i]["reasons"][f"hessian_top_ev_{split}_error"] = why
    return rows


def similarity(models: Sequence[Model], epoch: int, protocol: MeasureProtocol, objective: Objective) -> list[Row]:
    """CKA of the logits on test data, mean over the pairs of seeds of each cell.

    >>> import phasezoo
    >>> from phasezoo.training.data import load_data
    >>> from phasezoo.training.landscape.objective import objective_of
    >>> from phasezoo.training.landscape.protocols import protocol_for
    >>> zoo = phasezoo.load("mlp-digits").filter(width=64, lr=0.1)
    >>> objective = objective_of(zoo.manifest, zoo[0].config, load_data("digits"))
    >>> [row] = similarity(list(zoo), 150, protocol_for("mlp-digits"), objective)
    >>> row["cell_id"], len(row["representation_similarity_pairs"]), row["representation_similarity"] > 0.9
    ('w64-lr0.1', 3, True)
    """
    rows = []
    for cell in _cells(models):
        row = row_of(cell[0], epoch, cell=True)
        rows.append(row)
        if too_few(row, cell, "representation_similarity"):
            continue
        with noting([row], "representation_similarity"):
            nets = [model.checkpoint(epoch).module() for model in cell]
            test = objective.data.test
            batches = test.batches(protocol.cka_batch or len(test))[: protocol.cka_batches]
            # Every token of a text is a sample of its own.
            outputs = [found[""].flatten(1, -2) for found in collect_outputs(nets, batches=batches)]
            found = cka(outputs, estimator=protocol.cka)
            pairs = [found.matrix[i, j].item() for i, j in combinations(range(len(cell)), 2)]
            known = [value for value in pairs if math.isfinite(value)]
            if known:
                row["representation_similarity"] = sum(known) / len(known)
                row["representation_similarity_pairs"] = known
            for i, why in found.reasons.items():
                row["reasons"][f"representation_similarity of {cell[i].id}"] = why
            if not known:
                row["reasons"]["representation_similarity"] = "no pair of networks with outputs that are not constant"
    return rows


def curves(models: Sequence[Model], epoch: int, protocol: MeasureProtocol, objective: Objective) -> list[Row]:
    """Mode connectivity of quadratic Bezier curves between the seeds of each cell, mean over the pairs.

    >>> import phasezoo
    >>> from dataclasses import replace
    >>> from phasezoo.training.data import load_data
    >>> from phasezoo.training.landscape.objective import objective_of
    >>> from phasezoo.training.landscape.protocols import protocol_for
    >>> short = replace(protocol_for("mlp-digits"), curve_epochs=5)
    >>> zoo = phasezoo.load("mlp-digits").filter(width=4, lr=0.1)[:2]
    >>> objective = objective_of(zoo.manifest, zoo[0].config, load_data("digits"))
    >>> [row] = curves(list(zoo), 150, short, objective)
    >>> row["curve_mc_train_loss"] < 0  # there is a barrier
    True
    """
    rows, pairs, owners = [], [], []
    columns = [f"curve_mc_{split}_{what}" for split in ("train", "test") for what in ("loss", "error")]
    for cell in _cells(models):
        row = row_of(cell[0], epoch, cell=True)
        rows.append(row)
        if not too_few(row, cell, *columns):
            pairs += list(combinations(cell, 2))
            owners += [row] * math.comb(len(cell), 2)
    with noting(rows, *columns):
        found = _paths(pairs, epoch, protocol, objective) if pairs else []
        values: dict[int, list[Mapping[str, Path]]] = {}
        for owner, paths in zip(owners, found, strict=True):
            values.setdefault(id(owner), []).append(paths)
        for row in rows:
            if objective.points:
                row["reasons"].update({name: NO_CLASSES if "error" in name else NO_TEST for name in columns[1:]})
            for split in found[0] if id(row) in values else ():
                ours = [paths[split] for paths in values[id(row)]]
                losses = [path.loss if protocol.averages == "published" else path.nll for path in ours]
                errors = [path.error for path in ours]
                for what, all_values in (("loss", losses), ("error", errors))[: 1 if objective.points else 2]:
                    mcs = [mode_connectivity(v) for v in all_values]
                    mean = sum(mcs) / len(mcs)
                    if math.isfinite(mean):
                        row[f"curve_mc_{split}_{what}"] = mean
                    else:
                        row["reasons"][f"curve_mc_{split}_{what}"] = "the loss is not finite along a curve"
    return rows


def averaging(models: Sequence[Model], epoch: int, protocol: MeasureProtocol, objective: Objective) -> list[Row]:
    """Accuracy of averages: over the last epochs of each model, and over the aligned seeds of each cell.

    >>> import phasezoo
    >>> from phasezoo.training.data import load_data
    >>> from phasezoo.training.landscape.objective import objective_of
    >>> from phasezoo.training.landscape.protocols import protocol_for
    >>> zoo = phasezoo.load("mlp-digits").filter(width=32, lr=0.1)
    >>> objective = objective_of(zoo.manifest, zoo[0].config, load_data("digits"))
    >>> [row] = averaging(list(zoo), 150, protocol_for("mlp-digits"), objective)
    >>> row["gitrebasin_acc_test"] > 0.9, row["reasons"]["wiseft_acc_test"]
    (True, 'no checkpoints at the epochs 146, 147, 148, 149')
    """
    rows = []
    data = objective.data
    train, test = data.train.batches(512), data.test.batches(512)
    for cell in _cells(models):
        row = row_of(cell[0], epoch, cell=True)
        rows.append(row)
        if objective.points:
            row["reasons"].update(dict.fromkeys(AVERAGED, NO_CLASSES))
            continue
        size = int(cell[0].config.get("batch_size") or 128)
        bn = data.train.batches(size)[: protocol.bn_batches]
        with noting([row], "wiseft_acc_test", "wiseft_acc_test_delta"):
            found = []
            for model in cell:
                net = model.checkpoint(epoch).module()
                last = range(epoch - protocol.average_epochs + 1, epoch + 1)
                missing = [e for e in last if e not in model.epochs]
                if missing:
                    raise MeasureError(f"no checkpoints at the epochs {', '.join(map(str, missing))}")
                states = [model.checkpoint(e).state_dict() for e in last]
                found.append(
                    epoch_average(
                        net,
                        states=states,
                        train=train,
                        test=test,
                        bn_batches=bn,
                        protocol=protocol.averages,
                        loss=objective.loss,
                    )
                )
            row["wiseft_acc_test"] = sum(a.test.accuracy for a in found) / len(found)
            row["wiseft_acc_test_delta"] = sum(a.delta for a in found) / len(found)
        if too_few(row, cell, "gitrebasin_acc_test", "gitrebasin_acc_test_delta"):
            continue
        with noting([row], "gitrebasin_acc_test", "gitrebasin_acc_test_delta"):
            net = cell[0].checkpoint(epoch).module()
            states = [model.checkpoint(epoch).state_dict() for model in cell]
            average = seed_average(
                net,
                states=states,
                train=train,
                test=test,
                bn_batches=bn,
                protocol=protocol.averages,
                loss=objective.loss,
                seed=protocol.seed,
            )
            row["gitrebasin_acc_test"], row["gitrebasin_acc_test_delta"] = average.test.accuracy, average.delta
    return rows


NO_CLASSES = "an equation has no classes, and no accuracy"
NO_TEST = "an equation is trained everywhere; what a network misses shows in relative_l2"
AVERAGED = tuple(f"{how}_acc_test{what}" for how in ("wiseft", "gitrebasin") for what in ("", "_delta"))
GROUPS: dict[str, Group] = {"hessian": hessian, "cka": similarity, "curves": curves, "averaging": averaging}


def _paths(
    pairs: Sequence[tuple[Model, Model]], epoch: int, protocol: MeasureProtocol, objective: Objective
) -> list[dict[str, Path]]:
    """Fit a curve for each pair and evaluate it."""
    if protocol.curve_schedule == "cosine":
        n = protocol.curve_epochs
        rates = [protocol.curve_lr * (1 + math.cos(math.pi * e / n)) / 2 for e in range(n)]
    else:
        schedule = "published" if protocol.curve_schedule == "published" else "corrected"
        rates = learning_rates(protocol.curve_epochs, lr=protocol.curve_lr, protocol=cast(Any, schedule))
    t = torch.linspace(0, 1, protocol.curve_points).tolist()
    data = objective.data
    modules = {m.id: objective.network(m.checkpoint(epoch).module(), m.config) for pair in pairs for m in pair}
    settings: dict[str, Any] = {
        "batch_size": protocol.curve_batch,
        "momentum": protocol.curve_momentum,
        "weight_decay": protocol.curve_weight_decay,
        "clip": protocol.curve_clip,
        "seed": protocol.seed,
    }
    if _perceptrons(list(modules.values())):
        ends = [(cast(MLP, modules[a.id]), cast(MLP, modules[b.id])) for a, b in pairs]
        flat = {name: _flat(split) for name, split in (("train", data.train), ("test", data.test))}
        population, points = fit_many(ends, data=flat["train"], rates=rates, **settings)
        return evaluate_many(population, points, data=flat, t=t)
    train, test = (split.batches(protocol.curve_batch) for split in (data.train, data.test))
    found = []
    for a, b in pairs:
        ends_of = (modules[a.id].state_dict(), modules[b.id].state_dict())
        whole: Batch = (data.train.x, data.train.y.long())
        curve = fit_bezier(
            modules[a.id],
            ends=ends_of,
            data=whole,
            epochs=len(rates),
            lr=rates,
            augment=lambda x, _: data.train.normalise(x),
            loss=objective.loss,
            **settings,
        )
        found.append(
            curve.evaluate(
                {"train": train} if objective.points else {"train": train, "test": test},
                t=t,
                bn_batches=train,
                weight_decay=protocol.curve_weight_decay,
                loss=objective.loss,
            )
        )
    return found


def _modules(
    models: Sequence[Model], epoch: int, rows: Sequence[Row], objective: Objective, *columns: str
) -> list[torch.nn.Module]:
    """Load the networks; none, with the reason in every row, if their architecture cannot be built."""
    nets: list[torch.nn.Module] = []
    with noting(rows, *columns):
        nets = [objective.network(model.checkpoint(epoch).module(), model.config) for model in models]
    return nets


def _perceptrons(nets: Sequence[torch.nn.Module]) -> bool:
    return all(isinstance(net, MLP) and net.activation == "relu" for net in nets)


def _some(split: Split, n: int | None, *, seed: int) -> Split:
    """Return n samples drawn without replacement, or all in order."""
    if n is None or n >= len(split):
        return split
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:n]
    return split.take(chosen)


def _flat(split: Split) -> Split:
    """Return all samples as rows of floats, as a population takes them."""
    x, y = split.batch(slice(None))
    return Split(x.flatten(1), y)


def _cells(models: Sequence[Model]) -> list[list[Model]]:
    cells: dict[str, list[Model]] = {}
    for model in models:
        cells.setdefault(model.config["cell_id"], []).append(model)
    return list(cells.values())
