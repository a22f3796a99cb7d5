"""Train many physics-informed perceptrons of one shape as one: convection, with beta and learning rate per member.

The residual u_t + beta u_x is the derivative of u along (beta, 1). It is carried forward beside u through each layer,

    a = tanh(z),    z' = W a'_before,    a' = (1 - a^2) z'

so that one reverse pass by hand gives the gradient of the loss, where a plain loop differentiates twice. A member does
not depend on who else is in the population: its solo run is a population of one, bit for bit (one thread, one machine).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from phasezoo.nets.mlp import MLP
from phasezoo.training.data import Convection, exact
from phasezoo.training.population.grouped import ALIGNED

CACHE = 2**20  # bytes of one layer's activations that are worked on at once, on a CPU


class PinnPopulation:
    """S perceptrons with tanh, trained by Adam on the loss of the convection problem.

        mean (u(x, 0) - sin x)^2 + mean (u(0, t) - u(2 pi, t))^2 + mean (u_t + beta u_x)^2

    Works on the device of the networks. Parameters of all members lie in one matrix ``[S, P]``; weights
    ``[S, out, in]`` and biases ``[S, 1, out]`` are views into it, and so are the gradients.

    Args:
        nets: networks ``[n, 2]`` to ``[n, 1]``.
        points: where the loss is taken.
        beta: convection coefficients ``[S]``.
        betas: decay of Adam's averages of the gradient and of its square.

    Raises:
        ValueError: the networks have different shapes, another activation, or other inputs and outputs.

    >>> from phasezoo.nets import build
    >>> from phasezoo.training.data import convection
    >>> shape = {"in_features": 2, "width": 8, "depth": 2, "out_features": 1, "activation": "tanh"}
    >>> nets = [build("mlp", **shape) for _ in range(3)]
    >>> beta = torch.tensor([1.0, 10.0, 30.0])
    >>> population = PinnPopulation(nets, points=convection(collocation=64), beta=beta, betas=(0.9, 0.999))
    >>> population.step(torch.tensor([1e-3, 1e-3, 1e-4])).shape
    torch.Size([3])
    """

    def __init__(
        self, nets: Sequence[MLP], *, points: Convection, beta: torch.Tensor, betas: tuple[float, float]
    ) -> None:
        sizes = {net.sizes for net in nets}
        if len(sizes) != 1 or any(net.activation != "tanh" for net in nets) or {(s[0], s[-1]) for s in sizes} != {(2, 1)}:
            raise ValueError(f"a population of PINNs has one shape 2-...-1 and tanh; got {sorted(map(repr, nets))[:4]}.")
        example = next(nets[0].parameters()).detach()
        self.sizes, self.names = nets[0].sizes, tuple(nets[0].state_dict())
        self.points, self.beta, self.betas = points.to(example.device), beta.to(example), betas
        parts = (self.points.initial, self.points.left, self.points.right, self.points.collocation)
        self._x = torch.cat(parts).to(example)
        self._counts = [len(part) for part in parts]
        self._start = exact(self.points.initial.to(example), beta=0.0)
        lengths = [_padded(n) for a, b in pairwise(self.sizes) for n in (a * b, b)]
        self.params = example.new_zeros(len(nets), sum(lengths))
        self.grads, self.mean, self.square = (torch.zeros_like(self.params) for _ in range(3))
        self.steps = 0
        self.weights, self.biases = self._views(self.params)
        self.weight_grads, self.bias_grads = self._views(self.grads)
        for member, net in enumerate(nets):
            for name, view in self.state_views(member).items():
                view.copy_(net.state_dict()[name])

    def __len__(self) -> int:
        return len(self.params)

    @torch.no_grad()
    def step(self, lr: torch.Tensor) -> torch.Tensor:
        """Take one step of Adam.

        Args:
            lr: learning rates ``[S]``.

        Returns:
            Losses ``[S]`` before the step.
        """
        losses = self.differentiate()
        # As torch.optim.Adam: m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; w <- w - lr m^ / (sqrt(v^) + eps)
        self.steps += 1
        b1, b2 = self.betas
        self.mean.lerp_(self.grads, 1 - b1)
        self.square.mul_(b2).addcmul_(self.grads, self.grads, value=1 - b2)
        scale = self.square.sqrt().div_((1 - b2**self.steps) ** 0.5).add_(1e-8)
        self.params.sub_((self.mean / scale).mul_((lr / (1 - b1**self.steps)).unsqueeze(1)))
        return losses

    @torch.no_grad()
    def differentiate(self) -> torch.Tensor:
        """Write the gradient of each member's loss into `grads` ``[S, P]`` and return the losses ``[S]``."""
        # Values of all points, then derivatives along (beta, 1) at the collocation points; rows fill up cache lines.
        n, inside = len(self._x), self._counts[-1]
        rows = n + inside + -(n + inside) % ALIGNED
        size = len(self)
        if self.params.device.type == "cpu":
            size = max(1, CACHE // (rows * max(self.sizes) * self.params.element_size()))
        parts = [slice(i, min(i + size, len(self))) for i in range(0, len(self), size)]
        return torch.cat([self._differentiate(part, n=n, inside=inside, rows=rows) for part in parts])

    def _differentiate(self, part: slice, *, n: int, inside: int, rows: int) -> torch.Tensor:
        """Do what `differentiate` does for some members: n values and derivatives at the last `inside` points."""
        weights, biases = [w[part] for w in self.weights], [b[part] for b in self.biases]
        beta = self.beta[part]
        members, last = len(beta), len(weights) - 1
        along = torch.stack([beta, torch.ones_like(beta)], 1)  # v = (beta, 1)
        x = self._x.expand(members, -1, -1)
        values, slopes, at = slice(0, n), slice(n, n + inside), slice(n - inside, n)

        h: list[torch.Tensor] = []  # activations of each hidden layer [members, rows, width]: a, then a'
        for i in range(last):
            if i:
                z = torch.bmm(h[-1], weights[i].transpose(1, 2))
                z[:, values] += biases[i]
            else:
                z = x.new_zeros(members, rows, self.sizes[1])
                z[:, values] = torch.baddbmm(biases[0], x, weights[0].transpose(1, 2))
                z[:, slopes] = (weights[0] @ along.unsqueeze(2)).transpose(1, 2)
            z[:, values].tanh_()
            z[:, slopes].mul_(1 - z[:, at].square())
            h.append(z)
        out = torch.bmm(h[-1], weights[last].transpose(1, 2))  # [members, rows, 1]
        out[:, values] += biases[last]

        initial, left, right = out[:, values, 0].split(self._counts, 1)[:3]
        errors = (initial - self._start, left - right, out[:, slopes, 0])
        losses = torch.stack([error.square().mean(1) for error in errors]).sum(0)

        dz = torch.zeros_like(out)
        d_initial, d_left, d_right = dz[:, values, 0].split(self._counts, 1)[:3]
        for gradient, error, sign in ((d_initial, 0, 2), (d_left, 1, 2), (d_right, 1, -2), (dz[:, slopes, 0], 2, 2)):
            torch.mul(errors[error], sign / errors[error].shape[1], out=gradient)
        for i in range(last, -1, -1):
            torch.sum(dz[:, values], 1, keepdim=True, out=self.bias_grads[i][part])
            if i == 0:
                dw = torch.bmm(dz[:, values].transpose(1, 2), x)  # dW = dz^T x + (sum dz') v^T
                dw += dz[:, slopes].sum(1).unsqueeze(2) * along.unsqueeze(1)
                self.weight_grads[0][part] = dw
                break
            a = h[i - 1]
            torch.bmm(dz.transpose(1, 2), a, out=self.weight_grads[i][part])  # dW = dz^T a + dz'^T a'
            da = torch.bmm(dz, weights[i])
            # dz = (1 - a^2) da - 2 a a' da',  dz' = (1 - a^2) da'
            cross = a[:, at] * a[:, slopes] * da[:, slopes]
            da[:, slopes].mul_(1 - a[:, at].square())
            da[:, values].mul_(1 - a[:, values].square())
            da[:, at].sub_(cross, alpha=2)
            dz = da
        return losses

    @torch.no_grad()
    def evaluate(self) -> dict[str, torch.Tensor]:
        """Return the loss, and on the grid the mean square of the error and ||u - u*|| / ||u*||, each ``[S]`` (float64)."""
        raise NotImplementedError

    def state_views(self, member: int) -> dict[str, torch.Tensor]:
        """View the parameters of one member, named and ordered as in its module."""
        views = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            views += [weight[member], bias[member, 0]]
        return dict(zip(self.names, views, strict=True))

    def state_dict(self, member: int) -> dict[str, torch.Tensor]:
        """Copy the weights of one member, named and ordered as in its module."""
        return {name: view.clone() for name, view in self.state_views(member).items()}

    def _views(self, flat: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        weights, biases, start = [], [], 0
        for a, b in pairwise(self.sizes):
            weights.append(flat[:, start : start + a * b].view(-1, b, a))
            start += _padded(a * b)
            biases.append(flat[:, start : start + b].view(-1, 1, b))
            start += _padded(b)
        return weights, biases


def _padded(n: int) -> int:
    return n + -n % ALIGNED
