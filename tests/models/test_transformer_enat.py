"""ENAT: equal to the authors' model, right for ragged batches, cheaper with reuse, and a complete diffusers model."""

import pytest
import torch
from accelerate.utils import send_to_device
from diffusers.models.attention_dispatch import attention_backend
from model_contract import ModelContract, relative_error
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from diffusers_autonat.conversion import convert_enat_state_dict
from diffusers_autonat.models import ENATTransformer2DModel
from diffusers_autonat.models.transformer_enat import ENATAttnProcessor, ENATCache
from tests.conftest import load_reference, on_grid


MASK = 20


def make_cache(features: torch.Tensor, encoded: torch.Tensor) -> ENATCache:
    """The cache of the `encoded` positions `[B, N]`, given features of the whole grid `[B, N, D]`."""
    counts = encoded.sum(dim=1)
    size = int(counts.max())
    indices = encoded.byte().argsort(dim=1, descending=True, stable=True)[:, :size]
    valid = None if counts.min() == size else torch.arange(size) < counts[:, None]
    return ENATCache(features.gather(1, indices[..., None].expand(-1, -1, features.shape[-1])), indices, valid)


def one_of(cache: ENATCache, b: int) -> ENATCache:
    """Sample `b`'s own part of a cache."""
    kept = slice(None) if cache.valid is None else cache.valid[b]
    return ENATCache(cache.features[b : b + 1, kept], cache.indices[b : b + 1, kept])


def build(weights: dict[str, torch.Tensor], **kwargs) -> ENATTransformer2DModel:
    config, state_dict = convert_enat_state_dict(weights, num_attention_heads=4, **kwargs)
    model = ENATTransformer2DModel(**config).eval()
    model.load_state_dict(state_dict)
    return model


class TestENAT(ModelContract):
    model_class = ENATTransformer2DModel
    config = {
        "sample_size": 4,
        "codebook_size": MASK,
        "hidden_size": 32,
        "num_encoder_layers": 3,
        "num_decoder_layers": 2,
        "num_attention_heads": 4,
        "num_classes": 6,
    }

    def make_inputs(self):
        """A step in the middle: of 16 tokens 5 are reused, 4 were just revealed, and 7 are masked."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(12, (3, 16), generator=generator)  # codes 12 to 19 stay unused
        order = torch.rand(3, 16, generator=generator).argsort(dim=1)
        features = torch.randn(3, 16, 32, generator=generator)
        return {
            "input_ids": ids.where(order < 9, MASK),
            "class_labels": torch.tensor([0, 5, 6]),
            "cache": make_cache(features, order < 5),
        }


class TestENATOnText(TestENAT):
    config = {**TestENAT.config, "context_dim": 12, "context_length": 7}

    def make_inputs(self):
        inputs = super().make_inputs()
        del inputs["class_labels"]
        states = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(2))
        return {**inputs, "encoder_hidden_states": states}

    @torch.no_grad()
    def test_padding_is_not_counted(self):
        model, inputs = self.make_model(), self.make_inputs()
        states = inputs["encoder_hidden_states"]
        states[1, 4:] = 0
        logits = model(**inputs).sample
        states[1] = states[1, :4].mean(0)  # the same mean without any padding
        assert relative_error(model(**inputs).sample, logits) < 1e-5
        states[1] = 0  # nothing but padding
        assert model(**inputs).sample.isfinite().all() and not torch.allclose(model(**inputs).sample[1], logits[1])

    def test_a_wrong_kind_of_condition_is_refused(self):
        model, inputs = self.make_model(), self.make_inputs()
        states = inputs.pop("encoder_hidden_states")
        with pytest.raises(ValueError, match="text-conditional: `encoder_hidden_states` is required"):
            model(**inputs)
        with pytest.raises(ValueError, match="text-conditional: `class_labels` has to be None"):
            model(**inputs, class_labels=torch.zeros(3, dtype=torch.long), encoder_hidden_states=states)
        with pytest.raises(ValueError, match=r"has to be \[3, 7, 12\], but is \[3, 7, 11\]"):
            model(**inputs, encoder_hidden_states=states[..., :11])
        with pytest.raises(ValueError, match="class-conditional: `encoder_hidden_states` has to be None"):
            ENATTransformer2DModel(**TestENAT.config)(**inputs, encoder_hidden_states=states)


class TestENATRagged(TestENAT):
    """The same contract where the samples differ in all three counts; sample 0 is all masked, sample 2 all visible."""

    def make_inputs(self):
        inputs = super().make_inputs()
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(12, (3, 16), generator=generator)
        order = torch.rand(3, 16, generator=generator).argsort(dim=1)
        inputs["input_ids"] = ids.where(order < torch.tensor([[0], [9], [16]]), MASK)
        features = torch.randn(3, 16, 32, generator=generator)
        inputs["cache"] = make_cache(features, order < torch.tensor([[0], [3], [11]]))
        return inputs


class TestReference:
    @torch.no_grad()
    def test_reuse(self):
        weights, reference = load_reference("enat")
        model, cache = build(weights), None
        for i in range(4):
            output = model(reference[f"reuse.step{i}.input_ids"], reference["class_labels"], cache=cache)
            cache = output.cache
            assert relative_error(output.sample, reference[f"reuse.step{i}.logits"]) < 2e-5
            visible = reference[f"reuse.step{i}.input_ids"] != 48
            if cache is None:
                assert not visible.any()
                continue
            assert torch.equal(cache.place_of(64)[0], visible)
            assert relative_error(on_grid(cache, 64), reference[f"reuse.step{i}.features"] * visible[..., None]) < 2e-5

    @torch.no_grad()
    def test_without_reuse(self):
        weights, reference = load_reference("enat")
        model = build(weights)
        for i in range(4):
            logits = model(reference[f"reuse.step{i}.input_ids"], reference["class_labels"]).sample
            assert relative_error(logits, reference[f"fresh.step{i}.logits"]) < 2e-5

    def test_the_reference_tells_reuse_apart(self):
        _, reference = load_reference("enat")
        for i in (2, 3):  # the first steps at which something is reused
            assert relative_error(reference[f"reuse.step{i}.logits"], reference[f"fresh.step{i}.logits"]) > 1e-2


def random_step(counts: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor, ENATCache]:
    """Inputs of a step in which sample `b` has `counts[b] = (encoded, visible)` tokens at random places."""
    generator = torch.Generator().manual_seed(3)
    size = len(counts)
    order = torch.rand(size, 16, generator=generator).argsort(dim=1)
    encoded, visible = torch.tensor(counts).T.unsqueeze(-1)
    ids = torch.randint(MASK, (size, 16), generator=generator).where(order < visible, MASK)
    features = torch.randn(size, 16, 32, generator=generator)
    return ids, torch.arange(size) % 7, make_cache(features, order < encoded)


RAGGED = [(0, 0), (3, 9), (0, 4), (7, 7), (16, 16), (0, 16), (5, 16), (1, 15)]


class TestRaggedBatch:
    @torch.no_grad()
    @pytest.mark.parametrize("reuse", [False, True])
    def test_every_sample_is_what_it_is_alone(self, reuse):
        model = TestENAT().make_model()
        ids, labels, cache = random_step(RAGGED)
        together = model(ids, labels, cache=cache if reuse else None)
        for b in range(len(ids)):
            alone = model(ids[b : b + 1], labels[b : b + 1], cache=one_of(cache, b) if reuse else None)
            assert relative_error(together.sample[b : b + 1], alone.sample) < 1e-5
            if (ids[b] == MASK).all():
                assert alone.cache is None and not together.cache.valid[b].any()
            else:
                features = on_grid(alone.cache, 16)
                assert relative_error(on_grid(together.cache, 16)[b : b + 1], features) < 1e-5

    def test_gradients_are_the_sum_of_those_of_the_samples(self):
        ids, labels, cache = random_step(RAGGED)
        weight = torch.randn(len(ids), 16, MASK, generator=torch.Generator().manual_seed(0))
        model, alone = TestENAT().make_model(), TestENAT().make_model()
        (model(ids, labels, cache=cache).sample * weight).sum().backward()
        for b in range(len(ids)):
            (alone(ids[b : b + 1], labels[b : b + 1], cache=one_of(cache, b)).sample * weight[b]).sum().backward()
        expected = dict(alone.named_parameters())
        for name, parameter in model.named_parameters():
            assert relative_error(parameter.grad, expected[name].grad) < 1e-4, name

    def key_masks(self, counts) -> list[torch.Tensor | None]:
        """What every attention layer is given when a step with these counts is run."""
        seen = []

        class Recorder(ENATAttnProcessor):
            def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
                seen.append(attention_mask)
                return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)

        model = TestENAT().make_model()
        model.set_attn_processor(Recorder())
        ids, labels, cache = random_step(counts)
        with torch.no_grad():
            model(ids, labels, cache=cache)
        assert len(seen) == 5
        return seen

    def test_equal_counts_need_no_key_mask(self):
        assert all(mask is None for mask in self.key_masks([(3, 9), (3, 9)]))

    def test_key_masks_of_ragged_counts(self):
        *_, encoder, _, decoder = self.key_masks([(3, 9), (4, 9)])
        assert encoder.sum(dim=1).tolist() == [9, 9] and encoder.shape == (2, 4 + 6)
        assert decoder.sum(dim=1).tolist() == [16, 16] and decoder.shape == (2, 4 + 6 + 7)

    def test_no_query_is_without_a_key(self):
        # Some attention backends give NaN there, and NaN times a zero gradient is NaN.
        assert all(mask.any(dim=1).all() for mask in self.key_masks(RAGGED))


class TestCache:
    @torch.no_grad()
    def test_halves_of_a_guided_batch(self):
        model = TestENAT().make_model()
        ids, labels, cache = random_step([(3, 9), (3, 9)])
        null = torch.full_like(labels, 6)
        other = ENATCache(cache.features.flip(1), cache.indices)
        both = ENATCache.cat([cache, other])
        output = model(torch.cat([ids, ids]), torch.cat([labels, null]), cache=both)
        cond, uncond = output.cache.chunk(2)
        expected = model(ids, labels, cache=cache), model(ids, null, cache=other)
        for half, logits, alone in zip((cond, uncond), output.sample.chunk(2), expected):
            assert relative_error(logits, alone.sample) < 1e-5
            assert relative_error(on_grid(half, 16), on_grid(alone.cache, 16)) < 1e-5
            assert torch.equal(half.place_of(16)[0], ids != MASK)

    def test_caches_of_different_widths_are_joined(self):
        _, _, narrow = random_step([(2, 9)] * 2)
        _, _, wide = random_step([(5, 9), (4, 9)])
        joined = ENATCache.cat([narrow, wide])
        assert joined.valid.sum(dim=1).tolist() == [2, 2, 5, 4]
        for part, whole in zip((narrow, wide), joined.chunk(2)):
            assert torch.equal(on_grid(part, 16), on_grid(whole, 16))

    @torch.no_grad()
    def test_a_known_count_changes_nothing(self):
        model = TestENAT().make_model()
        ids, labels, cache = random_step([(3, 9), (3, 9)])
        output = model(ids, labels, cache=cache, num_masked=7)
        assert torch.equal(output.sample, model(ids, labels, cache=cache).sample)
        assert output.cache.indices.shape == (2, 9) and output.cache.valid is None

    @torch.no_grad()
    def test_a_position_masked_again_is_computed_as_masked(self):
        model = TestENAT().make_model()
        ids, labels, cache = random_step([(3, 9), (3, 9)])
        encoded = cache.place_of(16)[0] | (ids == MASK)  # claims that the masked positions were encoded too
        output = model(ids, labels, cache=make_cache(on_grid(cache, 16), encoded))
        assert torch.equal(output.sample, model(ids, labels, cache=cache).sample)

    @torch.no_grad()
    def test_only_features_of_reused_positions_are_read(self):
        model = TestENAT().make_model()
        ids, labels, cache = random_step([(3, 9), (5, 9)])
        expected = model(ids, labels, cache=cache).sample
        for change, same in ((~cache.valid, True), (cache.valid, False)):
            features = cache.features + change.unsqueeze(-1)
            logits = model(ids, labels, cache=ENATCache(features, cache.indices, cache.valid)).sample
            assert torch.equal(logits, expected) == same

    def test_it_is_detached(self):
        ids, labels, _ = random_step([(3, 9)])
        output = TestENAT().make_model()(ids, labels)
        assert output.sample.requires_grad and not output.cache.features.requires_grad

    def test_it_moves_as_one_thing(self):
        _, _, cache = random_step([(3, 9)])
        moved = send_to_device(cache, "meta")
        assert isinstance(moved, ENATCache)
        assert moved.features.device.type == moved.indices.device.type == "meta" and moved.valid is None


class TestCost:
    def flops(self, ids, labels, cache=None) -> int:
        model = TestENAT().make_model()
        # The counter has no rule for the CPU's fused attention, so the products are spelled out.
        with torch.no_grad(), attention_backend("_native_math"), FlopCounterMode(display=False) as counter:
            model(ids, labels, cache=cache)
        return counter.get_total_flops()

    @pytest.mark.parametrize(("encoded", "visible"), [(0, 0), (0, 9), (5, 9), (9, 9), (9, 16)])
    def test_flops_are_those_of_the_tokens_worked_on(self, encoded, visible):
        ids, labels, cache = random_step([(encoded, visible)] * 2)
        d, k, fresh, masked = 32, MASK, visible - encoded, 16 - visible

        def block(own, context):  # multiply-accumulates of a block for one sample
            linear = 12 * own * d * d + 2 * context * d * d + 8 * d * d
            return (linear + 2 * own * (own + context) * d) if own else 0

        expected = 8 * encoded * d * d + 3 * block(fresh, encoded) + 2 * block(masked, visible) + 16 * d * (d + k)
        assert self.flops(ids, labels, cache) == 2 * 2 * expected

    def test_reuse_saves(self):
        ids, labels, cache = random_step([(8, 9)])
        assert self.flops(ids, labels, cache) < 0.7 * self.flops(ids, labels)

    @pytest.mark.parametrize(
        ("count", "encoder_runs", "decoder_runs"), [((0, 0), 0, 1), ((4, 4), 0, 1), ((4, 9), 1, 1), ((4, 16), 1, 0)]
    )
    def test_empty_stages_are_skipped(self, count, encoder_runs, decoder_runs):
        model, runs = TestENAT().make_model(), []
        for name, block in (*model.encoder_blocks.named_children(), *model.decoder_blocks.named_children()):
            block.register_forward_pre_hook(lambda module, args: runs.append(module))
        ids, labels, cache = random_step([count])
        model(ids, labels, cache=cache)
        assert [runs.count(block) for block in model.encoder_blocks] == 3 * [encoder_runs]
        assert [runs.count(block) for block in model.decoder_blocks] == 2 * [decoder_runs]

    @pytest.mark.parametrize(
        ("counts", "num_masked", "expected"),
        [([(3, 9), (3, 9)], None, ["tolist"]), (RAGGED, None, ["tolist"]), ([(3, 9), (3, 9)], 7, [])],
    )
    def test_host_synchronisations_of_a_call(self, counts, num_masked, expected):
        reads = []

        class Recorder(TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                name = getattr(func, "__name__", "")
                by_mask = name == "__getitem__" and isinstance(args[1], torch.Tensor)
                if name in ("tolist", "item", "__bool__", "__int__", "__index__", "__float__", "nonzero") or by_mask:
                    reads.append(name)
                return func(*args, **(kwargs or {}))

        model = TestENAT().make_model()
        ids, labels, cache = random_step(counts)
        with Recorder(), torch.no_grad():
            model(ids, labels, cache=cache, num_masked=num_masked)
        assert reads == expected


def test_compiled_blocks_follow_changing_counts():
    model = TestENAT().make_model()
    del model.encoder_blocks[1:], model.decoder_blocks[1:]
    steps = [random_step([count] * 2) for count in [(3, 7), (5, 12), (4, 9)]]
    with torch.no_grad():
        expected = [model(ids, labels, cache=cache).sample for ids, labels, cache in steps]
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model.compile_repeated_blocks(fullgraph=True, backend="eager", dynamic=True)
        for (ids, labels, cache), logits in zip(steps, expected):
            assert relative_error(model(ids, labels, cache=cache).sample, logits) < 1e-6
    # At most one graph for each kind of block: other counts do not make another.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    torch._dynamo.reset()


def test_parameter_count_of_the_paper():
    with torch.device("meta"):
        count = ENATTransformer2DModel().num_parameters()  # the defaults are ENAT-L
    # The released model also carries `prev_embedder`, an MLP of 1024 -> 4096 -> 1024 that it never uses.
    prev_embedder = 2 * 4 * 1024 * 1024 + 5 * 1024
    assert count + prev_embedder == 574_298_113


def test_initialisation():
    torch.manual_seed(0)
    model = ENATTransformer2DModel(**{**TestENAT.config, "hidden_size": 128})
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias") or "modulation" in name:
            assert not parameter.any(), name
        elif "embed" in name:
            assert abs(parameter.std().item() - 0.02) < 0.004, name
        else:
            xavier = (2 / sum(parameter.shape)) ** 0.5
            assert abs(parameter.std().item() / xavier - 1) < 0.05, name


class TestErrors:
    def test_sizes(self):
        with pytest.raises(ValueError, match="30.*4"):
            ENATTransformer2DModel(**{**TestENAT.config, "hidden_size": 30})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"input_ids": torch.zeros(3, 15, dtype=torch.long)}, r"\[batch, 16\].*\[3, 15\]"),
            ({"input_ids": torch.zeros(16, dtype=torch.long)}, r"\[16\]"),
            ({"class_labels": None}, "`class_labels` is required"),
            ({"class_labels": torch.zeros(2, dtype=torch.long)}, r"\[3\].*\[2\]"),
            ({"cache": random_step([(3, 9)] * 2)[2]}, r"\[3, n, 32\].*\[2, 3, 32\]"),
        ],
    )
    def test_inputs(self, change, message):
        test = TestENAT()
        with pytest.raises(ValueError, match=message):
            test.make_model()(**{**test.make_inputs(), **change})


class TestConversion:
    def test_unused_tensors_are_dropped(self):
        weights, _ = load_reference("enat")
        assert any(name.startswith("prev_embedder.") for name in weights)
        config, state_dict = convert_enat_state_dict(
            {**weights, "x_embedder.position_ids": torch.arange(64)[None]}, num_attention_heads=4
        )
        assert sum(tensor.numel() for tensor in state_dict.values()) == sum(
            tensor.numel() for name, tensor in weights.items() if not name.startswith("prev_embedder.")
        )
        assert config == {
            "sample_size": 8,
            "codebook_size": 48,
            "hidden_size": 32,
            "num_encoder_layers": 3,
            "num_decoder_layers": 2,
            "num_attention_heads": 4,
            "mlp_ratio": 4.0,
            "num_classes": 10,
        }

    @pytest.mark.parametrize("num_decoder_layers", [0, 5])
    def test_decoder_layers_that_leave_nothing(self, num_decoder_layers):
        with pytest.raises(ValueError, match=f"num_decoder_layers={num_decoder_layers}"):
            convert_enat_state_dict(load_reference("enat")[0], 4, num_decoder_layers)

    def test_all_wrong_tensors_are_listed(self):
        weights, _ = load_reference("enat")
        del weights["blocks.3.attn.kv.A.bias"]
        weights["blocks.3.attn.qkv.bias"] = torch.zeros(96)
        weights["prev_proj.mlp.fc2.weight"] = torch.zeros(32, 64)
        with pytest.raises(ValueError) as error:
            convert_enat_state_dict(weights, num_attention_heads=4)
        assert {line.strip() for line in str(error.value).splitlines()[1:]} == {
            "missing: blocks.3.attn.kv.A.bias",
            "not expected: blocks.3.attn.qkv.bias",
            "shape: prev_proj.mlp.fc2.weight is [32, 64], expected [32, 128]",
        }

    def test_other_models_are_named(self):
        with pytest.raises(ValueError, match="x_embedder.*missing.*token_emb"):
            convert_enat_state_dict(load_reference("uvit")[0])
        with pytest.raises(ValueError, match=r"x_embedder.*missing.*decoder"):
            convert_enat_state_dict({"decoder.conv_in.weight": torch.zeros(8, 3, 3, 3)})
