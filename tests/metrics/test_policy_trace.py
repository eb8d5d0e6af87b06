"""What a policy sets is kept as it was set, image by image."""

import pytest
import torch

from diffusers_autonat import AutoNATPipeline
from diffusers_autonat.metrics.policy_trace import trace_policy
from tests.pipelines.test_pipeline_policy import policy_of


def test_a_trace_is_of_every_image(pipe):
    with pytest.raises(ValueError, match="the pipeline has no policy"):
        trace_policy(pipe, 4)
    adaptive = AutoNATPipeline(**pipe.components | {"policy": policy_of(pipe)})
    adaptive.set_progress_bar_config(disable=True)
    trace = trace_policy(adaptive, 10, seed=3, batch_size=4)
    assert trace.images.shape == (10, 1, 28, 28) and trace.images.dtype == torch.uint8
    assert sorted(trace.class_labels.bincount().tolist()) == [2, 2, 3, 3]
    assert list(trace.schedules) == [
        "mask_ratios",
        "sampling_temperatures",
        "remasking_temperatures",
        "guidance_scales",
    ]
    assert all(values.shape == (10, 4) and len(values.unique()) > 20 for values in trace.schedules.values())
    other = trace_policy(adaptive, 10, seed=3, batch_size=10)
    assert torch.equal(trace.images, other.images)
    torch.testing.assert_close(trace.schedules["guidance_scales"], other.schedules["guidance_scales"])
    assert not adaptive.policy._forward_hooks
