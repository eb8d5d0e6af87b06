"""What a policy is rewarded for, at the end of each image; one file for each reward."""

from .base import Reward, standardised
from .discriminator import DiscriminatorReward
from .influence import InfluenceReward
from .weighted import WeightedReward


__all__ = ["DiscriminatorReward", "InfluenceReward", "Reward", "WeightedReward", "standardised"]
