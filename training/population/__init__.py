"""Train many networks of one architecture as one: perceptrons, small convolutional networks, PINNs."""

from phasezoo.training.population.conv import ConvPopulation
from phasezoo.training.population.mlp import Epoch, Member, Population, train

__all__ = ["ConvPopulation", "Epoch", "Member", "Population", "train"]
