from .policy_adaptive import AdaptivePolicyModel
from .transformer_enat import ENATTransformer2DModel
from .transformer_uvit import UViTTransformer2DModel


__all__ = ["AdaptivePolicyModel", "ENATTransformer2DModel", "UViTTransformer2DModel"]
