"""Permutations of every architecture, and the order that all permuted copies agree on."""

from __future__ import annotations

import itertools
import json
import sys

import pytest
import torch
from torch import nn
from torch.func import functional_call

import phasezoo
from phasezoo.alignment import match_weights
from phasezoo.canonical import canonical_order
from phasezoo.errors import ArchitectureError, DependencyError, MeasureError
from phasezoo.nets import architectures, build
from phasezoo.state import Variant
from phasezoo.symmetry import Symmetry, symmetry
from tests.landscape_cases import images, mlp, resnet, vectors

ARCHITECTURES = {
    "mlp": {"in_features": 8, "width": 12, "depth": 3, "out_features": 4, "activation": "tanh"},
    "resnet18": {"width": 4, "num_classes": 10},
    "resnet50": {"width": 4, "num_classes": 10},
    "vit": {"image_size": 8, "patch_size": 4, "embedding_dim": 12, "depth": 2, "heads": 3, "num_classes": 10},
    "gpt2": {"model_dim": 12, "depth": 2, "heads": 3, "vocab_size": 17, "context": 6},
}
PRESENT = [name for name in ARCHITECTURES if name in architectures()]


def drawn(net: nn.Module, *, seed: int = 0) -> nn.Module:
    """The network in eval mode with every tensor random: ones and zeros would hide what is left behind."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if "running_var" in name:
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif tensor.is_floating_point():
                fan_in = tensor[0].numel() if tensor.dim() > 1 else 4
                tensor.normal_(0, fan_in**-0.5, generator=generator)
    return net.eval()


def variant(name: str, *, seed: int = 0) -> Variant:
    net = drawn(build(name, **ARCHITECTURES[name]), seed=seed)
    config = {"architecture": name, "architecture_config": json.dumps(ARCHITECTURES[name])}
    return Variant(net.state_dict(), config=config, origin=f"{name} {seed}")


def inputs(name: str) -> torch.Tensor:
    if name == "gpt2":
        return torch.randint(17, (3, 6), generator=torch.Generator().manual_seed(1))
    return (vectors(5)[0] if name == "mlp" else images(5)[0]).double()


def in_double(state: Variant) -> dict[str, torch.Tensor]:
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def same(a, b) -> bool:
    bits = {4: torch.int32, 8: torch.int64}
    return all(torch.equal(a[k].view(bits[t.element_size()]), t.view(bits[t.element_size()])) for k, t in b.items())


def change(net: nn.Module, state: dict[str, torch.Tensor], x: torch.Tensor) -> float:
    """How far outputs move when a network takes another state dict, in their own scale."""
    with torch.no_grad():
        expected, found = net(x), functional_call(net, state, (x,))
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", PRESENT)
def test_a_permuted_network_of_each_architecture_computes_the_same_function(name: str) -> None:
    state, x = variant(name), inputs(name)
    net, double = state.module(), state.module().double()
    moved = set()
    for seed in range(3):
        copy = phasezoo.permute(state, seed=seed)
        moved |= {key for key in state if not torch.equal(copy[key], state[key])}
        assert change(double, in_double(copy), x) < 1e-12
        assert change(net, copy.state_dict(), x.float() if x.is_floating_point() else x) < 1e-5
    assert moved == set(state.symmetry().axes)


@pytest.mark.parametrize("name", PRESENT)
def test_every_axis_of_units_is_free(name: str) -> None:
    """Axes that stay in place are those of inputs and outputs: pixels, tokens, positions, classes, kernels."""
    state = variant(name)
    spec = state.symmetry()
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    fixed = {(key, axis) for key, shape in shapes.items() for axis in range(len(shape))}
    fixed -= {(key, axis) for key, axes in spec.axes.items() for axis in axes}
    kernels = {(key, axis) for key, shape in shapes.items() if len(shape) == 4 for axis in (2, 3)}
    ends = {
        "mlp": {("layers.0.weight", 1), ("layers.3.weight", 0), ("layers.3.bias", 0)},
        "resnet18": {("conv1.weight", 1), ("fc.weight", 0), ("fc.bias", 0)},
        "resnet50": {("conv1.weight", 1), ("fc.weight", 0), ("fc.bias", 0)},
        "vit": {
            *(("cls_token", 0), ("cls_token", 1), ("pos_embed", 0), ("pos_embed", 1), ("patch_embed.proj.weight", 1)),
            *(("head.weight", 0), ("head.bias", 0)),
        },
        "gpt2": {("transformer.wte.weight", 0), ("transformer.wpe.weight", 0)},
    }
    assert fixed == kernels | ends[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet18", [4] * 3 + [8] * 3 + [16] * 3 + [32] * 3), ("vit", [12, 3, 48, 3, 48]), ("gpt2", [12, 3, 48, 3, 48])],
)
def test_groups_are_streams_and_what_lies_inside_of_blocks(name: str, expected: list[int]) -> None:
    if name not in PRESENT:
        pytest.skip(f"this release has no {name}")
    assert sorted(variant(name).symmetry().sizes.values()) == sorted(expected)


def test_a_bottleneck_has_two_groups_inside_of_each_block_and_one_stream_a_stage() -> None:
    sizes = variant("resnet50").symmetry().sizes
    assert len(sizes) == 1 + 2 * (3 + 4 + 6 + 3) + 4


def test_heads_of_gpt2_as_in_transformers_are_permuted_without_a_change() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.GPT2Config(
        n_layer=2, n_embd=12, n_head=3, vocab_size=17, n_positions=6, bos_token_id=0, eos_token_id=0
    )
    net = drawn(transformers.GPT2LMHeadModel(config)).double()
    spec = symmetry(net)
    assert sorted(spec.sizes.values()) == [3, 3, 12, 48, 48]
    with torch.no_grad():
        x = inputs("gpt2")
        expected = net(x).logits
        net.load_state_dict(spec.apply(net.state_dict(), spec.draw(seed=0)))
        assert (net(x).logits - expected).abs().max() < 1e-12 * expected.abs().max()


def test_a_vision_transformer_of_timm_is_permuted_without_a_change() -> None:
    timm = pytest.importorskip("timm.models.vision_transformer", reason="timm cannot be imported", exc_type=ImportError)
    net = drawn(
        timm.VisionTransformer(img_size=8, patch_size=4, embed_dim=12, depth=2, num_heads=3, num_classes=10)
    ).double()
    spec = symmetry(net)
    assert sorted(spec.sizes.values()) == [3, 3, 12, 48, 48]
    assert change(net, spec.apply(net.state_dict(), spec.draw(seed=0)), images(3)[0].double()) < 1e-12


class Gated(nn.Module):
    """Names of a vision transformer's perceptron, but half of the first layer gates the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"mlp": nn.ModuleDict({"fc1": nn.Linear(4, 6)})})])
        self.blocks[0]["mlp"]["fc2"] = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.blocks[0]["mlp"]["fc1"](x).chunk(2, -1)
        return self.head(self.blocks[0]["mlp"]["fc2"](a * b))


def test_names_alone_do_not_make_a_transformer() -> None:
    net, x = drawn(Gated()).double(), torch.randn(3, 4).double()
    spec = symmetry(net)
    assert change(net, spec.apply(net.state_dict(), spec.draw(seed=0)), x) < 1e-12


def test_a_plain_state_dict_needs_its_symmetries() -> None:
    net = mlp()
    spec = symmetry(net)
    moved = phasezoo.permute(net.state_dict(), seed=1, spec=spec)
    assert isinstance(moved, dict)
    assert same(moved, spec.apply(net.state_dict(), spec.draw(seed=1)))
    with pytest.raises(ArchitectureError, match="plain state dict"):
        phasezoo.permute(net.state_dict(), seed=1)


@pytest.mark.parametrize("name", PRESENT)
def test_a_permuted_copy_is_aligned_back_exactly(name: str) -> None:
    state = variant(name)
    assert same(phasezoo.permute(state, seed=3).align_to(state), state)


def test_one_hidden_layer_is_matched_as_well_as_by_trying_all_permutations() -> None:
    nets = [drawn(build("mlp", in_features=3, width=6, depth=1, out_features=2), seed=s).double() for s in range(2)]
    a, b = (net.state_dict() for net in nets)
    spec = symmetry(nets[0])

    def overlap(order: tuple[int, ...]) -> float:
        moved = spec.apply(b, {1: torch.tensor(order)})
        return sum((a[name] * moved[name]).sum().item() for name in spec.axes)

    best = max(overlap(order) for order in itertools.permutations(range(6)))
    assert match_weights(a, source=b, spec=spec).objective[-1] == pytest.approx(best, abs=1e-12)


def test_networks_of_two_architectures_are_not_aligned() -> None:
    zoo = phasezoo.load("mlp-digits")
    a, b = (zoo[f"w{w}-lr0.03-s100"].checkpoint() for w in (8, 64))
    with pytest.raises(ArchitectureError, match="w8-lr0.03-s100 epoch 150: mlp .*w64-lr0.03-s100"):
        b.align_to(a)


# Canonical form


@pytest.mark.parametrize("name", PRESENT)
def test_permuted_copies_of_each_architecture_have_the_same_canonical_form(name: str) -> None:
    state, x = variant(name), inputs(name)
    canonical = state.canonical()
    for seed in range(3):
        assert same(phasezoo.permute(state, seed=seed).canonical(), canonical)
    assert same(canonical.canonical(), canonical)
    assert change(state.module().double(), in_double(canonical), x) < 1e-12
    assert not same(variant(name, seed=1).canonical(), canonical)


def test_every_model_of_the_embedded_zoo_has_its_own_canonical_form() -> None:
    forms = set()
    for model in phasezoo.load("mlp-digits").filter(width=[2, 12], lr=[0.01, 0.1]):
        for ckpt in model.checkpoints():
            canonical = ckpt.canonical()
            assert same(phasezoo.permute(ckpt, seed=ckpt.epoch).canonical(), canonical)
            forms.add(b"".join(tensor.numpy().tobytes() for tensor in canonical.values()))
    # the initial network is shared by all learning rates
    assert len(forms) == 2 * 3 * (2 * 3 + 1)


def tie(kind: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    net = mlp(width=6).eval()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    if kind == "pruned units":
        for name in ("0.weight", "0.bias"):
            state[name][[1, 4]] = 0
        state["2.weight"][:, [1, 4]] = 0
    if kind == "duplicated units":
        for name in ("0.weight", "0.bias"):
            state[name][[1, 4, 5]] = state[name][0].clone()
        state["2.weight"][:, [1, 4, 5]] = state["2.weight"][:, :1].clone()
    if kind == "same values, other places":
        # first layer alike, rows of the second are shifts of one another: only what follows tells them apart
        state["0.weight"][:] = state["0.weight"][0].clone()
        state["0.bias"].zero_()
        row = torch.arange(6.0)
        state["2.weight"] = torch.stack([row.roll(i) for i in range(6)])
        state["2.bias"].zero_()
    if kind == "a square of swaps":
        # units of both layers can only change places together
        for name in ("0.weight", "0.bias", "2.bias"):
            state[name][:] = state[name][:1].clone()
        state["4.weight"][:] = state["4.weight"][:, :1].clone()
        state["2.weight"] = torch.block_diag(*[torch.tensor([[1.0, 2.0], [2.0, 1.0]])] * 3)
    if kind == "signs only":
        generator = torch.Generator().manual_seed(0)
        state = {name: torch.randn(t.shape, generator=generator).sign() for name, t in state.items()}
    if kind == "zeros of both signs, not a number":
        state["2.weight"][:, :4] = torch.tensor([0.0, -0.0, torch.nan, 0.0])
        state["0.weight"][:] = 0.0
        state["0.bias"].zero_()
    return net, state


@pytest.mark.parametrize(
    "kind",
    [
        *("pruned units", "duplicated units", "same values, other places", "a square of swaps", "signs only"),
        "zeros of both signs, not a number",
    ],
)
def test_ties_do_not_spoil_the_canonical_form(kind: str) -> None:
    net, state = tie(kind)
    spec = symmetry(net)
    canonical = spec.apply(state, canonical_order(state, spec=spec))
    assert sorted(len(set(order.tolist())) for order in canonical_order(state, spec=spec).values()) == [6, 6]
    for seed in range(10):
        copy = spec.apply(state, spec.draw(seed=seed))
        assert same(spec.apply(copy, canonical_order(copy, spec=spec)), canonical)


def test_networks_with_the_same_sorted_weights_differ_in_canonical_form() -> None:
    """Two rings of three and one of six: every unit looks alike, and only their connections differ."""
    net = mlp(width=6)
    spec = symmetry(net)
    forms = []
    for ring in (torch.eye(6).roll(1, 0), torch.block_diag(torch.eye(3).roll(1, 0), torch.eye(3).roll(1, 0))):
        state = {name: torch.ones_like(tensor) for name, tensor in net.state_dict().items()}
        state["2.weight"] = torch.eye(6) + ring
        forms.append(spec.apply(state, canonical_order(state, spec=spec)))
        copy = spec.apply(state, spec.draw(seed=5))
        assert same(spec.apply(copy, canonical_order(copy, spec=spec)), forms[-1])
    assert not same(*forms)


def test_too_many_indistinguishable_orders_are_refused() -> None:
    net = mlp(width=10)
    state = {name: torch.ones_like(tensor) for name, tensor in net.state_dict().items()}
    state["2.weight"] = torch.eye(10)
    with pytest.raises(MeasureError, match="more than 1,000 orders"):
        canonical_order(state, spec=symmetry(net))


def test_units_that_differ_in_running_statistics_only_are_told_apart() -> None:
    net = resnet(width=2)
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    spec, state = symmetry(net), net.state_dict()
    canonical = spec.apply(state, canonical_order(state, spec=spec))
    copy = spec.apply(state, {group: torch.arange(size).flip(0) for group, size in spec.sizes.items()})
    assert same(spec.apply(copy, canonical_order(copy, spec=spec)), canonical)


def test_a_symmetry_is_data() -> None:
    spec = variant("mlp").symmetry()
    assert spec == Symmetry(
        axes={
            **{f"layers.{i}.weight": {0: (i + 1, 1), 1: (i, 1)} for i in (1, 2)},
            **{f"layers.{i}.bias": {0: (i + 1, 1)} for i in range(3)},
            "layers.0.weight": {0: (1, 1)},
            "layers.3.weight": {1: (3, 1)},
        },
        sizes={1: 12, 2: 12, 3: 12},
        parameters=frozenset(f"layers.{i}.{kind}" for i in range(4) for kind in ("weight", "bias")),
    )


def test_matching_without_scipy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(DependencyError, match="pip install"):
        variant("mlp").align_to(variant("mlp", seed=1))
