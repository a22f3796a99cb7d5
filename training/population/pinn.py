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
from phasezoo.training.population.padding import padded

CACHE = 2**20  # bytes of one layer's activations that are worked on at once, on a CPU


class PinnPopulation:
    """S perceptrons with tanh, trained by Adam on the loss of the convection problem.

        mean (u(x, 0) - sin x)^2 + mean (u(0, t) - u(2 pi, t))^2 + mean (u_t + beta u_x)^2

    Works on the device of the networks. Parameters of all members lie in one matrix ``[S, P]``; weights
    ``[S, out, in]`` and biases ``[S, out, 1]`` are views into it, and so are the gradients.

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
        sizes = nets[0].sizes
        alike = all(net.sizes == sizes and net.activation == "tanh" for net in nets)
        if not alike or len(sizes) < 3 or (sizes[0], sizes[-1]) != (2, 1):
            found = sorted(map(repr, nets))[:4]
            raise ValueError(f"PINNs of a population have one shape 2-width-...-1 and tanh; got {found}.")
        example = next(nets[0].parameters()).detach()
        self.sizes, self.names = nets[0].sizes, tuple(nets[0].state_dict())
        self.points, self.beta, self.betas = points.to(example.device), beta.to(example), betas
        parts = (self.points.initial, self.points.left, self.points.right, self.points.collocation)
        self._x = torch.cat(parts).to(example).T.contiguous()  # [2, points]
        self._counts = [len(part) for part in parts]
        self._columns = padded(sum(self._counts) + self._counts[-1])
        self._start = exact(self.points.initial.to(example), beta=0.0)
        lengths = [padded(n) for a, b in pairwise(self.sizes) for n in (a * b, b)]
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
        return torch.cat([self._differentiate(part) for part in self._parts(self._columns)])

    def _differentiate(self, part: slice) -> torch.Tensor:
        """Do what `differentiate` does, for some members."""
        weights, biases = [w[part] for w in self.weights], [b[part] for b in self.biases]
        weight_grads, bias_grads = [g[part] for g in self.weight_grads], [g[part] for g in self.bias_grads]
        v = torch.stack([self.beta[part], torch.ones_like(self.beta[part])], 1).unsqueeze(2)  # [s, 2, 1]
        x = self._x.expand(len(v), -1, -1)
        # Columns: u at all points, then u' = u_t + beta u_x at the collocation points, which are the last n.
        n, (_, points) = self._counts[-1], self._x.shape
        values, at, slopes = slice(points), slice(points - n, points), slice(points, points + n)

        h: list[torch.Tensor] = []  # a and a' of each hidden layer [s, width, columns]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            if h:
                z = torch.bmm(weight, h[-1])
            else:
                z = weight.new_zeros(len(v), len(bias[0]), self._columns)
                z[..., values] = torch.bmm(weight, x)
                z[..., slopes] = torch.bmm(weight, v)
            a = _tanh_(z[..., values], bias)
            _through_tanh_(z[..., slopes], a[..., at])
            h.append(z)
        u = torch.bmm(weights[-1], h[-1])  # [s, 1, columns]
        u[..., values] += biases[-1]

        du = torch.zeros_like(u)
        initial, left, right, _ = torch.split(u[:, 0, values], self._counts, 1)
        d_initial, d_left, d_right, _ = torch.split(du[:, 0, values], self._counts, 1)
        errors = (initial - self._start, left - right, u[:, 0, slopes])
        for d, error, sign in ((d_initial, 0, 2), (d_left, 1, 2), (d_right, 1, -2), (du[:, 0, slopes], 2, 2)):
            torch.mul(errors[error], sign / errors[error].shape[1], out=d)

        dz = du
        for i in reversed(range(len(weights))):
            torch.sum(dz[..., values], 2, keepdim=True, out=bias_grads[i])
            if not i:
                break
            z = h[i - 1]
            torch.bmm(dz, z.transpose(1, 2), out=weight_grads[i])  # dW = dz a^T + dz' a'^T
            dz = torch.bmm(weights[i].transpose(1, 2), dz)
            # dz = (1 - a^2) da - 2 a a' da',  dz' = (1 - a^2) da'
            a, twice = z[..., at], z[..., at] * z[..., slopes] * dz[..., slopes]
            _through_tanh_(dz[..., slopes], a)
            _through_tanh_(dz[..., values], z[..., values])
            dz[..., at].sub_(twice, alpha=2)
        torch.bmm(dz[..., values], x.transpose(1, 2), out=weight_grads[0])
        weight_grads[0] += dz[..., slopes].sum(2, keepdim=True) * v.transpose(1, 2)
        return torch.stack([error.square().mean(1) for error in errors]).sum(0)

    @torch.no_grad()
    def evaluate(self) -> dict[str, torch.Tensor]:
        """Evaluate all members; overwrites `grads`.

        Returns:
            ``train_loss``; ``test_loss``, the mean squared error on the grid; ``relative_l2``, the norm of the error
            there over that of the solution: each ``[S]``, in float64.
        """
        grid = self.points.grid.to(self.params).T.contiguous()
        errors = torch.empty(len(self), grid.shape[1], dtype=torch.float64, device=grid.device)
        solution = self.points.solution(self.beta.to(grid)).double()
        for part in self._parts(grid.shape[1]):
            h = grid.expand(len(self.params[part]), -1, -1)
            for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                z = torch.bmm(weight[part], h)
                h = _tanh_(z, bias[part]) if i < len(self.weights) - 1 else z.add_(bias[part])
            errors[part] = h[:, 0].double() - solution[part]
        return {
            "train_loss": self.differentiate().double(),
            "test_loss": errors.square().mean(1),
            "relative_l2": errors.norm(dim=1) / solution.norm(dim=1),
        }

    def _parts(self, columns: int) -> list[slice]:
        """Cut the members into parts to work on one after the other: such as fit a CPU's cache, one on a GPU."""
        size = len(self)
        if self.params.device.type == "cpu":
            size = max(1, CACHE // (columns * max(self.sizes) * self.params.element_size()))
        return [slice(i, i + size) for i in range(0, len(self), size)]

    def state_views(self, member: int) -> dict[str, torch.Tensor]:
        """View the parameters of one member, named and ordered as in its module."""
        views = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            views += [weight[member], bias[member, :, 0]]
        return dict(zip(self.names, views, strict=True))

    def state_dict(self, member: int) -> dict[str, torch.Tensor]:
        """Copy the weights of one member, named and ordered as in its module."""
        return {name: view.clone() for name, view in self.state_views(member).items()}

    def _views(self, flat: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        weights, biases, start = [], [], 0
        for a, b in pairwise(self.sizes):
            weights.append(flat[:, start : start + a * b].view(-1, b, a))
            start += padded(a * b)
            biases.append(flat[:, start : start + b].view(-1, b, 1))
            start += padded(b)
        return weights, biases


def _tanh_(z: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Turn z into tanh(z + bias) in place: 2 sigmoid(2 z) - 1 is a fifth of the work, and right to 1e-7."""
    torch.add(2 * bias, z, alpha=2, out=z)
    return z.sigmoid_().mul_(2).sub_(1)


def _through_tanh_(d: torch.Tensor, a: torch.Tensor) -> None:
    """Multiply by the derivative of tanh, 1 - a^2, in place."""
    torch.ops.aten.tanh_backward.grad_input(d, a, grad_input=d)
