"""GPT-2 against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from phasezoo.errors import ArchitectureError
from phasezoo.nets import build

SMALL = {"model_dim": 24, "depth": 3, "heads": 4, "vocab_size": 101, "context": 32}


def theirs() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="the reference of names and logits")
    config = transformers.GPT2Config(
        vocab_size=101, n_positions=32, n_embd=24, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(1)
    net = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():  # far from the small initial values
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def tokens(n: int = 4, length: int = 32) -> torch.Tensor:
    return torch.randint(101, (n, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("length", [32, 7, 1])
def test_logits_are_those_of_transformers(length: int) -> None:
    reference, net = theirs(), build("gpt2", **SMALL).eval()
    net.load_state_dict(reference.state_dict())
    with torch.no_grad():
        expected = reference(tokens(length=length)).logits
        assert expected.std() > 0.5
        torch.testing.assert_close(net(tokens(length=length)), expected, rtol=1e-5, atol=1e-5)


def test_names_order_and_shapes_are_those_of_transformers_which_names_the_head_twice(tmp_path: Path) -> None:
    from safetensors import safe_open

    reference, net = theirs(), build("gpt2", device="meta", **SMALL)
    expected = {name: tuple(tensor.shape) for name, tensor in reference.state_dict().items()}
    assert expected.pop("lm_head.weight") == expected["transformer.wte.weight"]
    assert [(name, tuple(t.shape)) for name, t in net.state_dict().items()] == list(expected.items())
    reference.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(net.state_dict())


def test_transformers_reads_our_weights() -> None:
    transformers = pytest.importorskip("transformers", reason="the reader")
    torch.manual_seed(3)
    net = build("gpt2", **SMALL).eval()
    reader = transformers.GPT2LMHeadModel(theirs().config).eval()
    assert reader.load_state_dict(net.state_dict(), strict=False).missing_keys == ["lm_head.weight"]
    with torch.no_grad():
        torch.testing.assert_close(reader(tokens()).logits, net(tokens()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_that_names_the_head_twice_loads_strictly_if_the_two_agree(assign: bool) -> None:
    net = build("gpt2", **SMALL)
    state = {**net.state_dict(), "lm_head.weight": net.transformer.wte.weight.detach().clone()}
    target = build("gpt2", device="meta" if assign else None, **SMALL)
    target.load_state_dict(state, strict=True, assign=assign)
    assert "lm_head.weight" in state, "the caller's dictionary is left alone"
    with torch.no_grad():
        assert torch.equal(target(tokens()), net(tokens()))
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    with pytest.raises(RuntimeError, match=r"lm_head\.weight differs from transformer\.wte\.weight"):
        build("gpt2", **SMALL).load_state_dict(state)


def test_the_head_learns_with_the_embedding() -> None:
    net = build("gpt2", **SMALL)
    net(torch.zeros(1, 8, dtype=torch.int64))[..., 100].sum().backward()
    grad = net.transformer.wte.weight.grad
    assert grad[100].any(), "token 100 is not read, but its row is the head's"
    assert grad[0].any(), "token 0 is read"
    assert not grad[1:100].any()


def test_a_token_sees_nothing_that_comes_after_it() -> None:
    torch.manual_seed(0)
    net = build("gpt2", **SMALL).eval()
    x = tokens()
    changed = torch.cat([x[:, :20], (x[:, 20:] + 1) % 101], 1)
    with torch.no_grad():
        a, b = net(x), net(changed)
    torch.testing.assert_close(a[:, :20], b[:, :20])
    assert (a[:, 20:] != b[:, 20:]).any(-1).all()


@pytest.mark.parametrize(
    ("d", "depth", "heads", "n_params"),
    [(768, 12, 12, 124_439_808), (1024, 24, 16, 354_823_168), (1280, 36, 20, 774_030_080)],
)
def test_the_published_sizes_have_their_published_counts(d: int, depth: int, heads: int, n_params: int) -> None:
    """Counts of gpt2, gpt2-medium and gpt2-large, and the closed form."""
    net = build("gpt2", model_dim=d, depth=depth, heads=heads, device="meta")
    assert sum(p.numel() for p in net.parameters()) == n_params
    assert n_params == depth * (12 * d * d + 13 * d) + (50257 + 1024 + 2) * d


def test_initial_weights_have_the_published_spread_and_follow_the_seed() -> None:
    torch.manual_seed(5)
    net = build("gpt2", model_dim=128, depth=8, heads=4, vocab_size=500, context=64)
    state = net.state_dict()
    for name in ("wte.weight", "wpe.weight", "h.3.attn.c_attn.weight", "h.7.mlp.c_fc.weight"):
        assert state[f"transformer.{name}"].std().item() == pytest.approx(0.02, rel=0.03)
    for name in ("h.0.attn.c_proj.weight", "h.7.mlp.c_proj.weight"):
        assert state[f"transformer.{name}"].std().item() == pytest.approx(0.02 / 4, rel=0.03)
    assert not any(tensor.any() for name, tensor in state.items() if name.endswith("bias"))
    assert all(tensor.eq(1).all() for name, tensor in state.items() if ".ln_" in name and name.endswith("weight"))
    torch.manual_seed(5)
    again = build("gpt2", model_dim=128, depth=8, heads=4, vocab_size=500, context=64).state_dict()
    assert all(torch.equal(a, b) for a, b in zip(state.values(), again.values(), strict=True))


@pytest.mark.parametrize(
    ("config", "message"),
    [({"heads": 5}, "5 heads do not divide"), ({"depth": 0}, "must be positive"), ({"width": 8}, "width")],
)
def test_what_does_not_fit_says_why(config: dict, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        build("gpt2", **{**SMALL, **config})
