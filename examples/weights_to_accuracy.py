"""Predict the accuracy of networks from their weights alone with a neural functional: pip install nfn.

python examples/weights_to_accuracy.py
"""

import torch
from nfn.common import WeightSpaceFeatures, network_spec_from_wsfeat
from nfn.layers import HNPPool, NPLinear, TupleOp
from torch import nn

import phasezoo
from phasezoo.normalise import Normaliser


def main() -> None:
    torch.manual_seed(0)
    splits = phasezoo.load("mlp-digits").filter(width=8).split(by="seed")  # runs of one seed share their start
    print("in more than one part:", splits.check_leakage())
    options = {"target": "test_acc", "epochs": [10, 50, 150]}
    scale = Normaliser.fit(splits.train, epochs=options["epochs"])
    train, test = (part.to_torch("nfn", normaliser=scale, **options) for part in (splits.train, splits.test))
    spec = network_spec_from_wsfeat(WeightSpaceFeatures(*train[[0]][0]))
    equivariant = [NPLinear(spec, 1, 16, io_embed=True), TupleOp(nn.ReLU()), NPLinear(spec, 16, 16, io_embed=True)]
    readout = [HNPPool(spec), nn.Flatten(), nn.Linear(16 * HNPPool.get_num_outs(spec), 64), nn.ReLU(), nn.Linear(64, 1)]
    net = nn.Sequential(*equivariant, TupleOp(nn.ReLU()), *readout)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for x, accuracy in (batch for _ in range(100) for batch in train.loader(batch_size=24)):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(WeightSpaceFeatures(*x))[:, 0], accuracy).backward()
        optimizer.step()
    x, accuracy = test[list(range(len(test)))]
    error = (net(WeightSpaceFeatures(*x))[:, 0] - accuracy).square().mean() / accuracy.var(correction=0)
    print(f"{len(test)} checkpoints of runs of a seed it has not seen: R2 {1 - error.item():.2f}")


if __name__ == "__main__":
    main()
