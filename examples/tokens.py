"""Networks of many widths as sequences of tokens (as SANE takes them), read by a small transformer.

python examples/tokens.py
"""

import torch
from torch import nn

import phasezoo
from phasezoo.representations import Tokens


def main() -> None:
    torch.manual_seed(0)
    train, _, test = phasezoo.load("mlp-digits").filter("width <= 16").split(by="cell")
    seen, unseen = (part.to_torch(Tokens(size=65), target="phase") for part in (train, test))
    embed, layer, head = nn.Linear(65, 32), nn.Embedding(3, 32), nn.Linear(32, len(seen.classes))
    mix = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)

    def read(tokens) -> torch.Tensor:
        there = tokens.mask.any(2)  # [models, tokens]; narrow networks are padded
        h = mix(embed(tokens.values) + layer(tokens.positions[..., 1]), src_key_padding_mask=~there)
        return head((h * there[..., None]).sum(1) / there.sum(1, keepdim=True))

    optimizer = torch.optim.AdamW([p for m in (embed, layer, head, mix) for p in m.parameters()], lr=3e-3)
    for epoch in range(60):
        seen.set_epoch(epoch)
        for tokens, phase in seen.loader(batch_size=32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(read(tokens), phase).backward()
            optimizer.step()
    tokens, phase = unseen[list(range(len(unseen)))]
    right = (read(tokens).argmax(1) == phase).float().mean()
    print(f"phases {', '.join(seen.classes)} of {len(unseen)} networks in cells it has not seen: {right:.0%} right")
    print(f"always the most frequent one: {phase.bincount().max() / len(phase):.0%}")


if __name__ == "__main__":
    main()
