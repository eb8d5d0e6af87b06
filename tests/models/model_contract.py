"""What every transformer of this package has to do as a diffusers model, whatever it computes."""

import accelerate
import pytest
import torch
from accelerate.utils import send_to_device
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_dispatch import attention_backend
from diffusers.training_utils import EMAModel


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value - reference).abs().max() / reference.abs().max()).item()


class ModelContract:
    """A test class inherits this and gives `model_class`, `config` and `make_inputs()`."""

    model_class: type
    config: dict

    def make_inputs(self) -> dict:
        raise NotImplementedError

    def make_model(self):
        """A tiny model whose every parameter is random: initial zeros would hide wrong wiring."""
        torch.manual_seed(0)
        model = self.model_class(**self.config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    @torch.no_grad()
    def logits(self, model) -> torch.Tensor:
        return model(**self.make_inputs()).sample

    def test_tuple_and_dataclass_agree(self):
        model, inputs = self.make_model(), self.make_inputs()
        output, as_tuple = model(**inputs), model(**inputs, return_dict=False)
        assert torch.equal(output.sample, as_tuple[0])
        assert len(as_tuple) == len(output.to_tuple())
        batch_size = len(inputs["input_ids"])
        assert output.sample.shape == (batch_size, self.config["sample_size"] ** 2, self.config["codebook_size"])

    def test_dropout_acts_only_while_training(self):
        model = self.make_model()
        assert torch.equal(self.logits(model), self.logits(model))
        model.train()
        assert not torch.equal(self.logits(model), self.logits(model))

    def test_output_is_rebuilt_by_accelerate(self):
        output = self.make_model()(**self.make_inputs())
        moved = send_to_device(output, "meta")
        assert type(moved) is type(output)
        assert moved.sample.device.type == "meta" and moved.sample.shape == output.sample.shape
        assert (moved.cache is None) == (output.cache is None)

    def test_save_and_load_are_bit_equal(self, tmp_path):
        model = self.make_model()
        model.save_pretrained(tmp_path)
        loaded = self.model_class.from_pretrained(tmp_path)
        assert not loaded.training
        assert {k: loaded.config[k] for k in self.config} == self.config
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert torch.equal(self.logits(loaded), self.logits(model))

    def test_sharded_save(self, tmp_path):
        model = self.make_model()
        model.save_pretrained(tmp_path, max_shard_size="60KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        assert torch.equal(self.logits(self.model_class.from_pretrained(tmp_path)), self.logits(model))

    def test_half_precision_stays_half(self):
        model = self.make_model().to(torch.bfloat16)
        inputs = send_to_device(self.make_inputs(), "cpu")
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                inputs[name] = value.to(torch.bfloat16)
        if inputs.get("cache") is not None:
            inputs["cache"].features = inputs["cache"].features.to(torch.bfloat16)
        with torch.no_grad():
            output = model(**inputs)
        assert output.sample.dtype == torch.bfloat16
        assert relative_error(output.sample.float(), self.logits(self.make_model())) < 0.1

    def test_every_parameter_gets_a_gradient(self):
        model = self.make_model()
        model(**self.make_inputs()).sample.square().mean().backward()
        without = [
            name
            for name, p in model.named_parameters()
            if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
        ]
        assert without == []

    def test_output_layer_does_not_train_the_codebook_embedding(self):
        model, inputs = self.make_model(), self.make_inputs()
        model(**inputs).sample.square().mean().backward()
        used = inputs["input_ids"].unique()
        grad = model.embed.word_embeddings.weight.grad
        assert 0 < len(used) < len(grad), "the test needs unused codes"
        unused = torch.ones(len(grad), dtype=torch.bool)
        unused[used] = False
        assert grad[used].any()
        assert not grad[unused].any()

    def test_gradient_checkpointing_recomputes_every_block_and_changes_nothing(self):
        gradients, runs = [], []
        for enable in (False, True):
            model = self.make_model()
            calls: dict = {}
            for name, module in model.named_modules():
                if type(module).__name__ in model._repeated_blocks:
                    module.register_forward_pre_hook(
                        lambda module, args, name=name: calls.update({name: calls.get(name, 0) + 1})
                    )
            if enable:
                model.enable_gradient_checkpointing()
            model(**self.make_inputs()).sample.square().mean().backward()
            gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
            runs.append(calls)
        assert all(torch.equal(grad, gradients[1][name]) for name, grad in gradients[0].items())
        assert set(runs[0].values()) == {1}
        assert runs[1] == dict.fromkeys(runs[0], 2)

    def test_compile_repeated_blocks(self):
        model = self.make_model()
        expected = self.logits(model)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model.compile_repeated_blocks(fullgraph=True, backend="eager")
        assert relative_error(self.logits(model), expected) < 1e-6
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
        torch._dynamo.reset()

    def test_layerwise_casting(self):
        model = self.make_model()
        expected = self.logits(model)
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        stored = {name: parameter.dtype for name, parameter in model.named_parameters()}
        low = {name for name, dtype in stored.items() if dtype == torch.float8_e4m3fn}
        assert any(".attn." in name for name in low) and any(".ff." in name for name in low)
        assert not any("embed" in name or "norm" in name or "head" in name for name in low)
        error = relative_error(self.logits(model), expected)
        assert 1e-4 < error < 0.3

    def test_device_map_auto(self, tmp_path):
        model = self.make_model()
        model.save_pretrained(tmp_path)
        loaded = self.model_class.from_pretrained(tmp_path, device_map="auto")
        assert torch.equal(self.logits(loaded), self.logits(model))

    def test_device_map_with_part_of_the_model_on_disk(self, tmp_path):
        model = self.make_model()
        model.save_pretrained(tmp_path / "model")
        size = sum(parameter.nbytes for parameter in model.parameters())
        loaded = self.model_class.from_pretrained(
            tmp_path / "model", device_map="auto", max_memory={"cpu": size // 2}, offload_folder=tmp_path / "offload"
        )
        assert set(loaded.hf_device_map.values()) == {"cpu", "disk"}
        assert torch.equal(self.logits(loaded), self.logits(model))

    def test_cpu_offload_of_every_module(self):
        # Weights sit on the meta device except while their own module runs, so reading one from outside fails.
        model = self.make_model()
        expected = self.logits(model)
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        assert all(parameter.device.type == "meta" for parameter in model.parameters())
        assert torch.equal(self.logits(model), expected)

    @pytest.mark.parametrize("kwargs", [{"offload_type": "leaf_level"}, {"offload_type": "block_level"}])
    def test_group_offloading(self, kwargs):
        model = self.make_model()
        expected = self.logits(model)
        device = torch.device("cpu")
        if kwargs["offload_type"] == "block_level":
            kwargs = {**kwargs, "num_blocks_per_group": 1}
        apply_group_offloading(model, onload_device=device, offload_device=device, **kwargs)
        assert torch.equal(self.logits(model), expected)

    def test_ema(self, tmp_path):
        model = self.make_model()
        start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        ema = EMAModel(model.parameters(), decay=0.5, model_cls=self.model_class, model_config=model.config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        ema.optimization_step = 10**6  # past the warm-up of the decay
        ema.step(model.parameters())
        ema.save_pretrained(tmp_path)
        averaged = EMAModel.from_pretrained(tmp_path, self.model_class)
        averaged.copy_to(model.parameters())
        for name, parameter in model.named_parameters():
            assert torch.allclose(parameter, start[name] + 0.5, atol=1e-6), name

    def test_fused_projections_and_backend(self):
        model = self.make_model()
        expected = self.logits(model)
        model.fuse_qkv_projections()
        assert all(processor_name.endswith("attn.processor") for processor_name in model.attn_processors)
        assert relative_error(self.logits(model), expected) < 1e-5
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "to_qkv" in name:
                    parameter.zero_()  # shows that the fused weights are the ones in use
        assert relative_error(self.logits(model), expected) > 1e-3
        model.unfuse_qkv_projections()
        assert torch.equal(self.logits(model), expected)
        with attention_backend("_native_math"):
            assert relative_error(self.logits(model), expected) < 1e-5

    def test_lora(self):
        peft = pytest.importorskip("peft")
        model = self.make_model()
        expected = self.logits(model)
        lora = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
        model.add_adapter(lora)
        assert relative_error(self.logits(model), expected) > 1e-4
        model.disable_adapters()
        assert torch.equal(self.logits(model), expected)
