"""A real consumer: neural functionals of the package nfn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import phasezoo
from phasezoo.builders.pack import Run
from phasezoo.builders.tables import write_zoo
from phasezoo.layout import Layout
from phasezoo.nets import build
from phasezoo.normalise import Normaliser
from phasezoo.representations.nfn import Nfn, WeightsAndBiases
from phasezoo.split import Splits
from tests.conftest import draft

common = pytest.importorskip("nfn.common", reason="neural functionals: pip install nfn")
layers = pytest.importorskip("nfn.layers", reason="neural functionals: pip install nfn")
EPOCHS = [10, 50, 150]  # without the initial networks, which runs of one seed share


def functional(x: WeightsAndBiases, hidden: int = 16) -> nn.Module:
    torch.manual_seed(0)
    spec = common.network_spec_from_wsfeat(common.WeightSpaceFeatures(*x))
    return nn.Sequential(
        layers.NPLinear(spec, 1, hidden, io_embed=True),
        layers.TupleOp(nn.ReLU()),
        layers.NPLinear(spec, hidden, hidden, io_embed=True),
        layers.TupleOp(nn.ReLU()),
        layers.HNPPool(spec),
        nn.Flatten(),
        nn.Linear(hidden * layers.HNPPool.get_num_outs(spec), 64),
        nn.ReLU(),
        nn.Linear(64, 1),
    )


def predictions(splits: Splits, *, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Train on one part; return what is predicted for the test part and what is true."""
    scale = Normaliser.fit(splits.train, epochs=EPOCHS)
    parts = [
        view.to_torch("nfn", target="test_acc", epochs=EPOCHS, normaliser=scale) for view in (splits.train, splits.test)
    ]
    (x, y), (unseen, truth) = (part[list(range(len(part)))] for part in parts)
    net = functional(x)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for _ in range(steps):
        guess = net(common.WeightSpaceFeatures(*x))[:, 0]
        loss = nn.functional.mse_loss(guess, (y - y.mean()) / y.std())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return net(common.WeightSpaceFeatures(*unseen))[:, 0] * y.std() + y.mean(), truth


@pytest.mark.slow
@pytest.mark.parametrize("by", ["run", "seed"])
def test_it_learns_accuracies_of_held_out_runs(zoo: phasezoo.Zoo, by: str) -> None:
    """Pooled over three splits: one has 15 or 24 checkpoints to be scored on, which is few."""
    found = []
    for seed in range(3):
        splits = zoo.filter(width=8).split(by=by, seed=seed)
        splits.check_leakage(epochs=EPOCHS)
        found.append(predictions(splits, steps=100))
    guess, truth = (torch.cat(parts) for parts in zip(*found, strict=True))
    r2 = 1 - ((guess - truth).square().sum() / (truth - truth.mean()).square().sum()).item()
    print(by, round(r2, 2), len(truth))
    assert r2 > 0.3


def test_permuting_hidden_channels_changes_its_output_by_less_than_a_hundred_thousandth(zoo: phasezoo.Zoo) -> None:
    dataset = zoo.filter(width=8).to_torch("nfn", normaliser=Normaliser.fit(zoo.filter(width=8)))
    x = dataset[list(range(24))]
    turn = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    permuted = WeightsAndBiases(
        [x.weights[0][:, :, turn], x.weights[1][..., turn], x.weights[2]],
        [x.biases[0][..., turn], *x.biases[1:]],
    )
    assert not torch.equal(x.weights[0], permuted.weights[0])
    net = functional(x)
    with torch.no_grad():
        ours, theirs = (net(common.WeightSpaceFeatures(*part)) for part in (x, permuted))
    assert ours.std() > 1e-3
    assert (ours - theirs).abs().max() < 1e-5


def test_the_helper_of_nfn_takes_state_dicts_of_nets_with_more_than_ten_layers(tmp_path) -> None:
    """It walks the keys, which safetensors would sort: layers 10 and 11 before layer 2, bias before weight."""
    import json

    import pyarrow as pa

    arguments = {"in_features": 5, "width": 4, "depth": 11, "out_features": 3}
    torch.manual_seed(0)
    state_dict = build("mlp", **arguments).state_dict()
    row = {"model_id": "m", "cell_id": "c", "load": 4.0, "temperature": 1.0, "seed": 0}
    row |= {"width": 4, "lr": 1.0, "architecture": "mlp", "architecture_config": json.dumps(arguments)}
    run = Run("m", "c", Layout.of_state_dict(state_dict), (1,), lambda _: state_dict)
    tables = {"configs": pa.Table.from_pylist([row]), "results": pa.table({"model_id": ["m"], "epoch": [1]})}
    write_zoo(tmp_path / "deep", draft(), runs=[run], **tables)
    deep = phasezoo.load(tmp_path / "deep")
    with pytest.raises(AssertionError):
        common.state_dict_to_tensors(dict(sorted(state_dict.items())))
    weights, biases = common.state_dict_to_tensors(deep["m"].checkpoint().state_dict())
    assert len(weights) == len(biases) == 12
    assert all(torch.equal(weights[i][0], state_dict[f"layers.{i}.weight"]) for i in range(12))
    x = deep.to_torch("nfn")[[0]]
    assert all(torch.equal(a[:, 0], b) for a, b in zip(x.weights, weights, strict=True))
    decoded = Nfn().decode(common.WeightSpaceFeatures(*x), Layout.of_state_dict(state_dict))
    assert all(torch.equal(decoded[name][0], tensor) for name, tensor in state_dict.items())
    again = common.params_to_state_dicts(list(state_dict), common.WeightSpaceFeatures(*x))[0]
    assert all(torch.equal(again[name], tensor) for name, tensor in state_dict.items())
