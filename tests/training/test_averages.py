import torch
from diffusers.training_utils import EMAModel
from torch import nn

from diffusers_autonat import UViTTransformer2DModel
from diffusers_autonat.training.averages import averaged_model


def test_the_averaged_model_follows_the_average():
    torch.manual_seed(0)
    model = UViTTransformer2DModel(sample_size=4, codebook_size=8, hidden_size=16, num_layers=3, num_attention_heads=2)
    for foreach in (True, False):
        ema = EMAModel(model.parameters(), decay=0.9, foreach=foreach)
        averaged = averaged_model(model, ema)
        before = [p.clone() for p in averaged.parameters()]
        for _ in range(3):
            for parameter in model.parameters():
                nn.init.normal_(parameter)
            ema.step(model.parameters())
        assert all(torch.equal(p, average) for p, average in zip(averaged.parameters(), ema.shadow_params))
        assert not any(torch.equal(p, old) for p, old in zip(averaged.parameters(), before))
        assert not averaged.training and not any(p.requires_grad for p in averaged.parameters())
