import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn

from diffusers_autonat import UViTTransformer2DModel
from diffusers_autonat.training.averages import averaged_copy, averaged_model
from diffusers_autonat.training.checkpoints import Checkpoints
from diffusers_autonat.training.prepared import plain_model


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


def test_of_a_compiled_model_the_model_itself_is_kept_and_copied(tmp_path):
    accelerator = Accelerator(cpu=True)
    model = UViTTransformer2DModel(sample_size=4, codebook_size=8, hidden_size=16, num_layers=3, num_attention_heads=2)
    compiled = torch.compile(model, backend="eager")
    assert plain_model(accelerator, compiled) is model
    assert Checkpoints(accelerator, tmp_path, {"transformer": compiled}).parts["transformer"] is model
    ema = EMAModel(model.parameters())
    copy = averaged_copy(accelerator, compiled, ema)
    assert type(copy) is type(model) and copy is not model
    for name, weight in model.state_dict().items():
        assert torch.equal(copy.state_dict()[name], weight), name
