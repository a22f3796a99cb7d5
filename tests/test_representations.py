"""Weights in other shapes, and back bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import phasezoo
from phasezoo.errors import TensorNotFoundError, TopologyError
from phasezoo.layout import Layout
from phasezoo.representations import Flat, Graph, Layers, Nfn, Statistics, Tokens, of
from phasezoo.representations.only import Only
from phasezoo.representations.tokens import KINDS, pad
from tests import resnet_zoo


def batch_of(state_dicts: list[dict[str, torch.Tensor]]) -> tuple[dict[str, torch.Tensor], Layout]:
    stacked = {name: torch.stack([s[name] for s in state_dicts]) for name in state_dicts[0]}
    return stacked, Layout.of_state_dict(state_dicts[0])


def assert_same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Equal in names, order, dtype and every bit, which NaN and -0 are held to as well."""
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert ours[name].shape == tensor.shape, name
        assert ours[name].contiguous().numpy().tobytes() == tensor.contiguous().numpy().tobytes(), name


@pytest.fixture(scope="module")
def resnets() -> tuple[dict[str, torch.Tensor], Layout]:
    return batch_of([resnet_zoo.state_dict(seed, 1) for seed in range(3)])


@pytest.fixture(scope="module")
def cnns() -> tuple[dict[str, torch.Tensor], Layout]:
    """Convolutions, flattened into linear layers, with special values among the weights."""
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        parts = [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 5), nn.Flatten(), nn.Linear(6 * 4, 7), nn.Linear(7, 2)]
        found.append(nn.Sequential(*parts).state_dict())
        found[-1]["0.weight"][0, 0, 0] = torch.tensor([-0.0, float("nan"), 1e-45])
    return batch_of(found)


def sane_tokens(state_dict: dict[str, torch.Tensor], size: int, *, batchnorm: bool) -> tuple[torch.Tensor, ...]:
    """The straightforward loop over layers and channels, by what names mean in torchvision's ResNets."""
    rows, mask, positions, layer = [], [], [], 0
    for name, tensor in state_dict.items():
        norm = "bn" in name or "downsample.1" in name
        if (norm and not batchnorm) or not name.endswith(("weight", "running_mean", "running_var")):
            continue
        bias = state_dict.get(name.replace("weight", "bias")) if name.endswith("weight") else None
        for channel in range(len(tensor)):
            row = tensor[channel].flatten().tolist() + ([] if bias is None else [bias[channel].item()])
            for start in range(0, len(row), size):
                cut = row[start : start + size]
                rows.append(cut + [0.0] * (size - len(cut)))
                mask.append([True] * len(cut) + [False] * (size - len(cut)))
                positions.append([len(positions), layer, channel])
        layer += 1
    return torch.tensor(rows), torch.tensor(mask), torch.tensor(positions)


@pytest.mark.parametrize(("batchnorm", "count"), [(False, 802), (True, 2602)])
def test_tokens_of_a_resnet_are_those_of_sane(resnets, batchnorm: bool, count: int) -> None:
    tensors, layout = resnets
    tokens = Tokens(size=288, batchnorm=batchnorm).encode(tensors, layout)
    values, mask, positions = sane_tokens({n: t[1] for n, t in tensors.items()}, 288, batchnorm=batchnorm)
    assert len(values) == count
    assert torch.equal(tokens.values[1], values)
    assert torch.equal(tokens.mask[1], mask)
    assert torch.equal(tokens.positions[1].long(), positions)


@pytest.mark.parametrize("size", [None, 288, 100, 1, 1000])
def test_tokens_invert_bit_for_bit_on_all_122_entries(resnets, size: int | None) -> None:
    tensors, layout = resnets
    assert len(layout) == 122
    whole = Tokens(size=size)
    assert_same_bits(whole.decode(whole.encode(tensors, layout), layout), tensors)
    without = Tokens(size=size, batchnorm=False)
    decoded = without.decode(without.encode(tensors, layout), layout)
    assert len(decoded) == 22  # 20 convolutions, and weight and bias of the head
    assert_same_bits(decoded, {name: tensors[name] for name in decoded})
    other, _ = batch_of([resnet_zoo.state_dict(9, 9)] * 3)
    filled = {**other, **decoded}
    assert_same_bits(filled, {name: tensors[name] if name in decoded else other[name] for name in layout.names})


def test_kinds_tell_weights_from_normalisation_and_statistics_whatever_the_names(resnets) -> None:
    tensors, layout = resnets
    tokens = Tokens(size=1000).encode(tensors, layout)
    count = {kind: int((tokens.kinds[0] == i).sum()) for i, kind in enumerate(KINDS)}
    channels = 600  # as many of convolutions as of BatchNorm
    assert count == {"weight": channels + 10, "bias": 0, "affine": channels, "statistic": 2 * channels}
    renamed = {name.replace("bn", "norm_").replace("downsample.1", "downsample.z"): t for name, t in tensors.items()}
    layout = Layout.of((n, layout.tensors[i].dtype, layout.tensors[i].shape) for i, n in enumerate(renamed))
    assert torch.equal(Tokens(size=1000).encode(renamed, layout).kinds, tokens.kinds)
    assert Tokens(size=288, batchnorm=False).encode(renamed, layout).values.shape[1] == 802


def test_parameters_without_a_weight_and_layer_norms_have_tokens_too() -> None:
    state_dict = {
        "token": torch.randn(1, 1, 4),
        "scale": torch.randn(()),
        "norm.weight": torch.randn(4),
        "norm.bias": torch.randn(4),
        "half.weight": torch.randn(3, 4).half(),
        "half.bias": torch.randn(3).half(),
    }
    tensors, layout = batch_of([state_dict, {n: t + 1 for n, t in state_dict.items()}])
    tokens = Tokens(size=3).encode(tensors, layout)
    assert [KINDS[k] for k in tokens.kinds[0]] == ["bias"] * 3 + ["affine"] * 4 + ["weight"] * 6
    assert_same_bits(Tokens(size=3).decode(tokens, layout), tensors)


def test_sequences_of_several_topologies_are_padded_with_masked_tokens(zoo: phasezoo.Zoo) -> None:
    dataset = zoo.filter(width=[2, 8], lr=0.1).to_torch(Tokens(size=80), target="test_acc")
    tokens, accuracy = next(iter(dataset.loader(batch_size=6, shuffle=False)))
    assert tokens.values.shape == (6, 8 + 8 + 10, 80)
    assert accuracy.shape == (6,)
    assert not tokens.mask[0, 2 + 2 + 10 :].any()
    assert tokens.mask[0].sum() == 2 * 65 + 2 * 3 + 10 * 3
    with pytest.raises(TopologyError, match=r"Tokens\(size=66\)"):
        pad([Tokens(size=size).encode(*batch_of([{"a": torch.ones(2)}])) for size in (65, 66)])


@pytest.mark.parametrize("representation", [Flat(), Layers(), Tokens(), Tokens(size=4), Nfn(), Graph()], ids=str)
def test_representations_invert_bit_for_bit_on_convolutions_and_perceptrons(cnns, zoo, representation) -> None:
    tensors, layout = cnns
    assert_same_bits(representation.decode(representation.encode(tensors, layout), layout), tensors)
    view = zoo.filter(width=8)
    stack = view.stack()
    dataset = view.to_torch(representation)
    assert_same_bits(dataset.decode(dataset[list(range(24))]), dict(stack))


@pytest.mark.parametrize("representation", [Flat(), Layers()], ids=str)
def test_vectors_hold_every_float_of_a_resnet(resnets, representation) -> None:
    tensors, layout = resnets
    decoded = representation.decode(representation.encode(tensors, layout), layout)
    assert_same_bits(decoded, {n: t for n, t in tensors.items() if t.is_floating_point()})
    assert_same_bits({**tensors, **decoded}, tensors)


def test_the_graph_computes_what_the_perceptron_does(zoo: phasezoo.Zoo) -> None:
    """Messages along the edges, layer by layer, from the plain tensors alone."""
    ckpt = zoo["w8-lr0.03-s100"].checkpoint()
    layout = Layout.of_state_dict(ckpt.state_dict())
    graph = Graph().encode({n: t[None] for n, t in ckpt.state_dict().items()}, layout)
    nodes, (source, target), weights, layer = graph.nodes[0], graph.edges[0], graph.features[0], graph.layers[0]
    torch.manual_seed(0)
    x = torch.randn(64)
    values = torch.cat([x, torch.zeros(len(nodes) - 64)])
    for number in range(1, 4):
        into = layer[target] == number
        messages = torch.zeros(len(nodes)).index_add(0, target[into], weights[into, 0] * values[source[into]])
        here = layer == number
        total = (messages + nodes[:, 0])[here]
        values[here] = total if number == 3 else total.relu()
    assert torch.allclose(values[-10:], ckpt.module()(x[None])[0], atol=1e-5)


def test_the_graph_of_a_convolution_has_a_kernel_on_each_edge(cnns) -> None:
    tensors, layout = cnns
    graph = Graph().encode(tensors, layout)
    assert graph.features.shape == (2, 4 + 24 + 42 + 14, 25)
    assert graph.layers[0].bincount().tolist() == [1, 4, 6, 7, 2]
    edge = 4 + 3 * 4 + 1  # from channel 1 of the first layer to channel 3 of the second
    assert graph.edges[0, :, edge].tolist() == [1 + 1, 5 + 3]
    assert torch.equal(graph.features[0, edge], tensors["1.weight"][0, 3, 1].flatten())
    edge = 28 + 2 * 6 + 5  # channel 5, four values of it, to unit 2
    assert torch.equal(graph.features[0, edge, :4], tensors["3.weight"][0, 2, 20:24])
    assert not graph.features[0, edge, 4:].any()


def test_a_graph_becomes_a_graph_of_pyg(zoo: phasezoo.Zoo) -> None:
    pytest.importorskip("torch_geometric", reason="PyG graphs are for those who have it")
    from torch_geometric.loader import DataLoader

    from phasezoo.representations.graph import NeuralGraph

    dataset = zoo.filter(width=[2, 8], lr=0.1).to_torch("graph", transform=NeuralGraph.to_pyg)
    batch = next(iter(DataLoader(dataset, batch_size=6)))
    assert batch.num_graphs == 6
    assert batch.num_nodes == 3 * (64 + 2 + 2 + 10) + 3 * (64 + 8 + 8 + 10)
    assert torch.equal(batch[5].edge_attr[: 8 * 64, 0], zoo["w8-lr0.1-s102"].checkpoint()["layers.0.weight"].flatten())


def test_statistics_are_those_of_numpy(resnets) -> None:
    import numpy as np

    tensors, layout = resnets
    found = Statistics().encode(tensors, layout)
    floats = [t for t in tensors.values() if t.is_floating_point()]
    assert found.shape == (3, len(floats), 7)
    for i, tensor in enumerate(floats):
        x = tensor[2].double().numpy()
        expected = [x.mean(), x.var(), *np.quantile(x, [0, 0.25, 0.5, 0.75, 1])]
        assert np.allclose(found[2, i], expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(TopologyError, match="cannot be turned back"):
        Statistics().decode(found, layout)


def test_statistics_put_networks_of_all_widths_into_one_batch(zoo: phasezoo.Zoo) -> None:
    x, phase = zoo.to_torch("statistics", target="phase")[[0, 100, 263]]
    assert x.shape == (3, 6, 7)
    assert phase.dtype == torch.long


def test_one_layer_alone(cnns) -> None:
    tensors, layout = cnns
    only = Only("1", Flat())
    x = only.encode(tensors, layout)
    assert x.shape == (2, 6 * 4 * 25 + 6)
    assert_same_bits(only.decode(x, layout), {name: tensors[name] for name in ("1.weight", "1.bias")})
    with pytest.raises(TensorNotFoundError, match="There are: 0, 1, 3, 4"):
        Only("2", Flat()).encode(tensors, layout)


@pytest.mark.parametrize("name", ["nfn", "graph"])
def test_networks_that_a_representation_cannot_take_are_refused_with_the_layer_and_a_way_out(resnets, name) -> None:
    with pytest.raises(TopologyError, match=r"(conv1|bn1).*'tokens'"):
        of(name).encode(*resnets)


def test_representations_have_names() -> None:
    assert of("tokens") == Tokens()
    with pytest.raises(ValueError, match="Did you mean 'tokens'"):
        of("token")
