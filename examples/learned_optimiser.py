"""Learn one step in place of a hundred epochs: pairs of an earlier and a later checkpoint of one run.

python examples/learned_optimiser.py
"""

import torch
from torch import nn

import phasezoo


def main() -> None:
    torch.manual_seed(0)
    train, _, test = phasezoo.load("mlp-digits").filter(width=32).split(by="seed")
    seen, unseen = (part.pairs(within="run", epochs=[10, 150], target=["train_loss", "lr"]) for part in (train, test))
    step = nn.Sequential(nn.Linear(4, 32), nn.GELU(), nn.Linear(32, 1))

    def move(pair) -> torch.Tensor:
        """Change each weight by what it is, the loss now, the loss that is wanted, and the learning rate."""
        now, wanted, lr = pair.targets[:, 0, 0], pair.targets[:, 1, 0], pair.targets[:, 0, 1]
        prompt = torch.stack([now, wanted, lr], 1).log()[:, None].expand(-1, pair.a.shape[1], -1)
        return pair.a + step(torch.cat([pair.a[..., None], prompt], 2))[..., 0]

    optimizer = torch.optim.AdamW(step.parameters(), lr=1e-2)
    for epoch in range(100):
        seen.set_epoch(epoch)
        for pair in seen.loader(batch_size=4):
            optimizer.zero_grad()
            (move(pair) - pair.b).square().mean().backward()
            optimizer.step()
    pair = unseen[list(range(len(unseen)))]
    before, after = ((x - pair.b).norm(dim=1).mean().item() for x in (pair.a, move(pair)))
    print(f"{len(unseen)} runs of a seed it has not seen, from epoch 10 to epoch 150:")
    print(f"distance {before:.2f} before the step, {after:.2f} after it")
    print("tensors of the networks after it:", *unseen.single.decode(move(pair).detach()))


if __name__ == "__main__":
    main()
