import pytest
import torch
from diffusers.models import attention_dispatch

from diffusers_autonat.models import attention
from diffusers_autonat.models.transformer_uvit import UViTAttnProcessor


def states(requires_grad: bool = True, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5, 32), (3, 7, 32), (3, 7, 32)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(requires_grad) for shape in shapes]


MASK = torch.tensor([[True] * 7, [True] * 3 + [False] * 4, [False, True] * 3 + [False]])


@pytest.fixture
def dispatched(monkeypatch):
    """Counts the calls that reach diffusers' dispatcher."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(kwargs["backend"])
        return attention_dispatch.dispatch_attention_fn(*args, **kwargs)

    monkeypatch.setattr(attention, "dispatch_attention_fn", counted)
    return calls


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_training_in_bfloat16_on_a_cpu_gives_the_outputs_and_gradients_of_the_dispatcher(mask, dispatched):
    processor = UViTAttnProcessor()
    plain, exact = states(), states(dtype=torch.float32)
    ours = attention.attend(processor, *plain, heads=4, mask=mask)
    assert not dispatched and ours.dtype == torch.bfloat16
    theirs = attention.attend(processor, *exact, heads=4, mask=mask)
    assert dispatched == [None]
    torch.testing.assert_close(ours.float(), theirs, atol=0.02, rtol=0.02)
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    ours.backward(gradient.bfloat16())
    theirs.backward(gradient)
    for one, other in zip(plain, exact, strict=True):
        torch.testing.assert_close(one.grad.float(), other.grad, atol=0.04, rtol=0.04)


@pytest.mark.parametrize(
    ("tiles", "most", "is_plain"), [(False, 2**27, True), (True, 2**27, False), (False, 419, False)]
)
def test_inference_is_plain_on_cpus_without_tiles_as_long_as_scores_are_few(
    tiles, most, is_plain, dispatched, monkeypatch
):
    monkeypatch.setattr(attention, "_has_tiles", lambda: tiles)
    monkeypatch.setattr(attention, "MOST_SCORES", most)  # there are 3 x 4 x 5 x 7
    processor = UViTAttnProcessor()
    ours = attention.attend(processor, *states(requires_grad=False), heads=4, mask=MASK)
    assert dispatched == [None] * (not is_plain)
    theirs = attention.attend(processor, *states(requires_grad=False, dtype=torch.float32), heads=4, mask=MASK)
    assert dispatched == [None] * (2 - is_plain)  # float32 always
    torch.testing.assert_close(ours.float(), theirs, atol=0.02, rtol=0.02)


def test_a_named_backend_goes_through_the_dispatcher(dispatched):
    processor = UViTAttnProcessor()
    processor._attention_backend = attention_dispatch.AttentionBackendName._NATIVE_MATH
    attention.attend(processor, *states(), heads=4)
    attention.attend(processor, *states(requires_grad=False), heads=4)
    assert dispatched == ["_native_math"] * 2
