"""Train many networks of one architecture as one: perceptrons, convolutional networks, PINNs.

All of them compute on the device and in the type of the networks they are made from. They are written and measured for
one thread of a CPU. Nothing in them is tied to it, but nobody has yet timed them on a GPU; `faster` decides there too.
"""

from phasezoo.training.population.choose import faster, race
from phasezoo.training.population.conv import ConvPopulation
from phasezoo.training.population.mlp import Epoch, Member, Population, train
from phasezoo.training.population.pinn import PinnPopulation

__all__ = ["ConvPopulation", "Epoch", "Member", "PinnPopulation", "Population", "faster", "race", "train"]
