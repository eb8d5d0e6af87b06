"""U-ViT: equal to the authors' model, at the papers' sizes, and a complete diffusers model."""

import pytest
import torch
from model_contract import ModelContract, relative_error

from diffusers_autonat.conversion import convert_uvit_state_dict
from diffusers_autonat.models import UViTTransformer2DModel
from diffusers_autonat.models.transformer_uvit import UViTEmbedding, UViTHead
from tests.conftest import load_reference


def build(weights: dict[str, torch.Tensor], **kwargs) -> UViTTransformer2DModel:
    config, state_dict = convert_uvit_state_dict(weights, **kwargs)
    model = UViTTransformer2DModel(**config).eval()
    model.load_state_dict(state_dict)
    return model


class TestClassConditional(ModelContract):
    model_class = UViTTransformer2DModel
    config = {
        "sample_size": 4,
        "codebook_size": 20,
        "hidden_size": 32,
        "num_layers": 5,
        "num_attention_heads": 4,
        "num_classes": 6,
    }

    def make_inputs(self):
        generator = torch.Generator().manual_seed(0)
        input_ids = torch.randint(12, (3, 16), generator=generator)  # codes 12 to 19 stay unused
        input_ids[torch.rand(3, 16, generator=generator) < 0.5] = 20
        return {"input_ids": input_ids, "class_labels": torch.tensor([0, 5, 6])}


class TestPatchSizeTwo(TestClassConditional):
    config = {**TestClassConditional.config, "sample_size": 8, "patch_size": 2}
    test_compile_repeated_blocks = None  # the same blocks again

    def make_inputs(self):
        inputs = super().make_inputs()
        return {**inputs, "input_ids": inputs["input_ids"].repeat(1, 4)}


class TestTextConditional(TestClassConditional):
    config = {**TestClassConditional.config, "context_dim": 12, "context_length": 7}
    test_compile_repeated_blocks = None  # the same blocks again

    def make_inputs(self):
        states = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(1))
        return {"input_ids": super().make_inputs()["input_ids"], "encoder_hidden_states": states}


@torch.no_grad()
def test_logits_of_the_released_class_conditional_model():
    weights, reference = load_reference("uvit")
    model = build(weights, num_attention_heads=4)
    logits = model(reference["input_ids"], reference["class_labels"]).sample
    assert relative_error(logits, reference["logits"]) < 2e-5
    # The reference tells models apart: another number of heads, which no tensor shows, is far off.
    other = build(weights, num_attention_heads=8)
    assert relative_error(other(reference["input_ids"], reference["class_labels"]).sample, reference["logits"]) > 1e-3


@torch.no_grad()
def test_logits_of_the_released_text_conditional_model():
    weights, reference = load_reference("uvit_text")
    model = build(weights, num_attention_heads=4, context_length=12)
    logits = model(reference["input_ids"], encoder_hidden_states=reference["encoder_hidden_states"]).sample
    assert relative_error(logits, reference["logits"]) < 2e-5


def test_every_condition_counts():
    weights, reference = load_reference("uvit")
    model = build(weights, num_attention_heads=4)
    ids = reference["input_ids"][:1].expand(11, -1)
    with torch.no_grad():
        logits = model(ids, torch.arange(11)).sample  # 10 classes and the null class
    distances = torch.cdist(logits.flatten(1), logits.flatten(1)) + 1e9 * torch.eye(11)
    assert distances.min() > 1e-2


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ({"hidden_size": 512, "num_layers": 13}, 45_546_497),  # AutoNAT-S
        ({}, 193_655_297),  # AutoNAT-L, which the defaults are
    ],
)
def test_parameter_counts(config, parameters):
    with torch.device("meta"):
        assert UViTTransformer2DModel(**config).num_parameters() == parameters


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        ({"hidden_size": 512, "num_layers": 13, "sample_size": 32, "patch_size": 2}, 48),  # Table 3, 512 px
        ({"sample_size": 32, "patch_size": 2}, 199),
        ({"hidden_size": 512, "num_layers": 13, "context_dim": 768}, 45),  # Table 4, COCO
    ],
)
def test_parameter_counts_known_to_the_million(config, millions):
    with torch.device("meta"):
        assert round(UViTTransformer2DModel(**config).num_parameters() / 1e6) == millions


def test_parameter_count_of_the_muse_model():
    config = {"hidden_size": 1152, "num_layers": 29, "num_attention_heads": 16, "context_dim": 1280}
    with torch.device("meta"):
        count = UViTTransformer2DModel(**config).num_parameters()
    assert abs(count - 500e6) < 5e6  # Table 5 rounds to 500M


def test_forward_needs_no_value_on_the_host():
    # On the meta device nothing has a value, so a forward that runs there cannot wait for a GPU.
    with torch.device("meta"):
        model = UViTTransformer2DModel(**TestClassConditional.config)
        ids, labels = torch.zeros(2, 16, dtype=torch.long), torch.zeros(2, dtype=torch.long)
        assert model(ids, labels).sample.shape == (2, 16, 20)


def test_initialisation():
    torch.manual_seed(0)
    model = UViTTransformer2DModel(**{**TestClassConditional.config, "hidden_size": 128})
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert abs(parameter.std().item() - 0.02) < 0.004, name
            assert "embed" in name or parameter.abs().max() <= 2.0, name


class TestPatches:
    def make_modules(self):
        torch.manual_seed(0)
        embed = UViTEmbedding(6, 2, 20, 8, 5, None, 0.0)
        return embed, UViTHead(6, 2, 20, 8)

    def test_a_patch_is_a_square_read_row_by_row(self):
        embed, head = self.make_modules()
        tokens = torch.arange(36).view(1, 36, 1).expand(-1, -1, 8)
        patches = embed.patchify(tokens).view(9, 4, 8)
        expected = [[12 * i + 2 * j + k for k in (0, 1, 6, 7)] for i in range(3) for j in range(3)]
        assert torch.equal(patches[..., 0], torch.tensor(expected))
        assert torch.equal(patches, patches[..., :1].expand_as(patches))  # whole embeddings are kept together
        assert torch.equal(head.unpatchify(embed.patchify(tokens)), tokens)

    def test_the_head_writes_a_position_to_its_own_square(self):
        _, head = self.make_modules()
        hidden_states, codebook = torch.randn(1, 9, 8), torch.randn(20, 8)
        changed = hidden_states.clone()
        changed[0, 4] += torch.randn(8)  # the middle patch
        with torch.no_grad():
            difference = (head(changed, codebook) - head(hidden_states, codebook)).abs().amax(dim=(0, 2))
        assert difference.nonzero().flatten().tolist() == [14, 15, 20, 21]

    def test_masking_is_per_token(self):
        model = TestPatchSizeTwo().make_model()
        inputs = TestPatchSizeTwo().make_inputs()
        row = inputs["input_ids"][0]
        masked = row.clone()
        masked[(row != 20).nonzero()[0]] = 20
        with torch.no_grad():
            a, b = model(torch.stack([row, masked]), torch.zeros(2, dtype=torch.long)).sample
        assert relative_error(a, b) > 1e-4


class TestErrors:
    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"num_layers": 4}, "num_layers.*4"),
            ({"sample_size": 5, "patch_size": 2}, "5.*2"),
            ({"hidden_size": 30}, "30.*4"),
        ],
    )
    def test_sizes(self, config, message):
        with pytest.raises(ValueError, match=message):
            UViTTransformer2DModel(**{**TestClassConditional.config, **config})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"input_ids": torch.zeros(3, 15, dtype=torch.long)}, r"\[batch, 16\].*\[3, 15\]"),
            ({"input_ids": torch.zeros(16, dtype=torch.long)}, r"\[16\]"),
            ({"class_labels": None}, "`class_labels` is required"),
            ({"class_labels": torch.zeros(2, dtype=torch.long)}, r"\[3\].*\[2\]"),
            ({"encoder_hidden_states": torch.zeros(3, 7, 12)}, "class-conditional"),
            ({"cache": {}}, "cache.*dict"),
        ],
    )
    def test_class_conditional_inputs(self, change, message):
        test = TestClassConditional()
        with pytest.raises(ValueError, match=message):
            test.make_model()(**{**test.make_inputs(), **change})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"encoder_hidden_states": None}, "`encoder_hidden_states` is required"),
            ({"encoder_hidden_states": torch.zeros(3, 7, 13)}, r"\[3, 7, 12\].*\[3, 7, 13\]"),
            ({"encoder_hidden_states": torch.zeros(3, 8, 12)}, r"\[3, 7, 12\].*\[3, 8, 12\]"),
            ({"encoder_hidden_states": torch.zeros(1, 7, 12)}, r"\[3, 7, 12\].*\[1, 7, 12\]"),
            ({"class_labels": torch.zeros(3, dtype=torch.long)}, "text-conditional"),
        ],
    )
    def test_text_conditional_inputs(self, change, message):
        test = TestTextConditional()
        with pytest.raises(ValueError, match=message):
            test.make_model()(**{**test.make_inputs(), **change})


class TestConversion:
    def test_position_ids_are_dropped_and_nothing_shares_memory(self, tmp_path):
        weights, _ = load_reference("uvit")
        model = build({**weights, "token_emb.position_ids": torch.arange(256)[None]}, num_attention_heads=4)
        model.save_pretrained(tmp_path)
        _, state_dict = convert_uvit_state_dict(weights, num_attention_heads=4)
        pointers = [tensor.untyped_storage().data_ptr() for tensor in (*state_dict.values(), *weights.values())]
        assert len(set(pointers)) == len(pointers)

    def test_all_wrong_tensors_are_listed(self):
        weights, _ = load_reference("uvit")
        del weights["in_blocks.1.norm1.bias"]
        weights["out_blocks.0.attn.qkv.bias"] = torch.zeros(96)
        weights["mlm_layer.fc.weight"] = torch.zeros(32, 33)
        weights["mlm_layer.bias"] = torch.zeros(49)
        with pytest.raises(ValueError) as error:
            convert_uvit_state_dict(weights, num_attention_heads=4)
        assert {line.strip() for line in str(error.value).splitlines()[1:]} == {
            "missing: in_blocks.1.norm1.bias",
            "not expected: out_blocks.0.attn.qkv.bias",
            "shape: mlm_layer.fc.weight is [32, 33], expected [32, 32]",
            "shape: mlm_layer.bias is [49], expected [1, 1, 49]",
        }

    def test_a_whole_missing_block_is_listed(self):
        weights, _ = load_reference("uvit")
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("in_blocks.1.")}
        with pytest.raises(ValueError, match="missing: in_blocks.1.attn.qkv.weight"):
            convert_uvit_state_dict(weights, num_attention_heads=4)

    def test_other_models_are_named(self):
        with pytest.raises(ValueError, match="token_emb.*missing.*x_embedder"):
            convert_uvit_state_dict(load_reference("enat")[0])
        with pytest.raises(ValueError, match=r"token_emb.*missing.*encoder"):
            convert_uvit_state_dict({"encoder.conv_in.weight": torch.zeros(8, 3, 3, 3)})

    def test_positions_that_make_no_grid(self):
        weights, _ = load_reference("uvit")
        weights["token_emb.position_embeddings.weight"] = torch.zeros(250, 32)
        with pytest.raises(ValueError, match="250"):
            convert_uvit_state_dict(weights, num_attention_heads=4)
