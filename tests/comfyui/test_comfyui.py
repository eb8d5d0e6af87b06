"""The nodes by ComfyUI's documented protocol: ComfyUI itself is no package that a test could install.

The folder is imported as ComfyUI imports one of `custom_nodes/`, and a workflow of its API format is run as its executor does:
inputs are looked up in `INPUT_TYPES`, converted, held against their limits; links carry what `FUNCTION` has returned.
"""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from diffusers_autonat import GenerationStrategy
from tests.pipelines.text_encoders import save_without_encoder, tiny_text_pipeline


FOLDER = Path(__file__).parents[2] / "comfyui"


@pytest.fixture(scope="module")
def nodes():
    spec = importlib.util.spec_from_file_location(
        "custom_node_autonat", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(module.NODE_CLASS_MAPPINGS)
    yield module.NODE_CLASS_MAPPINGS
    for name in [name for name in sys.modules if name.startswith(spec.name)]:
        del sys.modules[name]


def execute(nodes, workflow, outputs):
    """The outputs of all nodes of a workflow whose links point back; `outputs` has those of other nodes, as (type, value)."""
    for number, node in workflow.items():
        kind = nodes[node["class_type"]]
        given = {}
        required, optional = kind.INPUT_TYPES()["required"], kind.INPUT_TYPES().get("optional", {})
        assert set(required) <= set(node["inputs"]) <= {**required, **optional}.keys()
        inputs = {name: {**required, **optional}[name] for name in node["inputs"]}
        for name, (wanted, *options) in inputs.items():
            limits, value = (options or [{}])[0], node["inputs"][name]
            if isinstance(value, list):
                is_type, value = outputs[value[0]][value[1]]
                assert is_type == wanted
            elif isinstance(wanted, list):
                assert value in wanted
            else:
                value = {"INT": int, "FLOAT": float, "STRING": str}[wanted](value)
                if wanted != "STRING":
                    assert limits["min"] <= value <= limits["max"]
            given[name] = value
        returned = getattr(kind(), kind.FUNCTION)(**given)
        assert isinstance(returned, tuple) and len(returned) == len(kind.RETURN_TYPES) == len(kind.RETURN_NAMES)
        outputs[number] = list(zip(kind.RETURN_TYPES, returned))
    return outputs


def workflow(nodes, folder, name, **inputs):
    """A loader and a node with its defaults but for `inputs`."""
    types = nodes[name].INPUT_TYPES()["required"]
    defaults = {key: options[0]["default"] for key, (_, *options) in types.items() if options}
    return {
        "1": {"class_type": "AutoNATLoader", "inputs": {"pipeline": str(folder)}},
        "2": {"class_type": name, "inputs": {"pipeline": ["1", 0], **defaults, **inputs}},
    }


def test_declarations(nodes):
    assert set(nodes) == {"AutoNATLoader", "AutoNATGenerate", "AutoNATInpaint"}
    for kind in nodes.values():
        assert kind.CATEGORY == "AutoNAT" and callable(getattr(kind, kind.FUNCTION))
        for wanted, *options in [one for group in kind.INPUT_TYPES().values() for one in group.values()]:
            for limits in options:
                default = limits["default"]
                assert (
                    default in wanted
                    if isinstance(wanted, list)
                    else limits.get("min", default) <= default <= limits.get("max", default)
                )


def test_generate(nodes, pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    made = execute(nodes, workflow(nodes, tmp_path, "AutoNATGenerate", text="dog", batch_size=2, seed=2**64 - 1), {})
    kind, images = made["2"][0]
    assert (
        kind == "IMAGE"
        and images.shape == (2, 28, 28, 3)
        and images.dtype == torch.float32
        and images.device.type == "cpu"
    )
    assert 0 <= images.min() < images.max() <= 1
    generator = [torch.Generator().manual_seed(seed) for seed in (2**64 - 1, 0)]
    same = pipe("dog", num_images_per_prompt=2, generator=generator, output_type="pt").images
    assert torch.equal(images, same.expand(-1, 3, -1, -1).movedim(1, -1))
    inputs = {
        "text": "1",
        "strategy": "cosine",
        "steps": 5,
        "remasking_temperature": 2.0,
        "guidance_scale": 1.0,
        "seed": 3,
    }
    images = execute(nodes, workflow(nodes, tmp_path, "AutoNATGenerate", **inputs), {})["2"][0][1]
    strategy = GenerationStrategy.cosine(5, remasking_temperature=2.0, guidance_scale=1.0)
    same = pipe(1, strategy=strategy, generator=[torch.Generator().manual_seed(3)], output_type="pt").images
    assert torch.equal(images[0, ..., 2], same[0, 0])


@pytest.mark.parametrize("size", [28, 64])
def test_inpaint(nodes, pipe, tmp_path, fashion_mnist, size):
    pipe.save_pretrained(tmp_path)
    image = torch.from_numpy(fashion_mnist[0][:1]).float() / 255
    image = torch.nn.functional.interpolate(image[None], size)[0][..., None].expand(-1, -1, -1, 3)
    mask = torch.zeros(1, size, size)
    mask[:, size // 2 :] = 1
    outputs = {"image": [("IMAGE", image)], "mask": [("MASK", mask)]}
    inputs = {"image": ["image", 0], "mask": ["mask", 0], "text": "cat", "steps": 4}
    images = execute(nodes, workflow(nodes, tmp_path, "AutoNATInpaint", **inputs), outputs)["2"][0][1]
    assert images.shape == (1, 28, 28, 3)
    if size == 28:
        assert torch.allclose(images[:, :14], image[:, :14], atol=1e-6) and not torch.allclose(
            images[:, 14:], image[:, 14:]
        )


def test_what_is_wrong_is_said(nodes, pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    for inputs, message in (({"text": "wolf"}, "unknown class name"), ({"text": "dog", "steps": 5}, "5")):
        with pytest.raises(ValueError, match=message):
            execute(nodes, workflow(nodes, tmp_path, "AutoNATGenerate", **inputs), {})
    with pytest.raises(ValueError, match="is no pipeline folder"):
        execute(nodes, workflow(nodes, FOLDER, "AutoNATGenerate"), {})


def test_a_prompt(nodes, tmp_path):
    pipe = tiny_text_pipeline()
    pipe.save_pretrained(tmp_path)
    inputs = {"text": "a red boat", "strategy": "cosine", "steps": 2}
    assert execute(nodes, workflow(nodes, tmp_path, "AutoNATGenerate", **inputs), {})["2"][0][1].shape == (
        1,
        28,
        28,
        3,
    )
    outputs = {"image": [("IMAGE", torch.rand(2, 28, 28, 3))], "mask": [("MASK", torch.ones(1, 28, 28))]}
    inputs |= {"image": ["image", 0], "mask": ["mask", 0]}
    assert execute(nodes, workflow(nodes, tmp_path, "AutoNATInpaint", **inputs), outputs)["2"][0][1].shape == (
        2,
        28,
        28,
        3,
    )


def test_a_pipeline_without_its_text_encoder(nodes, tmp_path):
    encoder = save_without_encoder(tmp_path / "pipeline", tmp_path / "encoder")
    one = workflow(nodes, tmp_path / "pipeline", "AutoNATGenerate", text="a red boat")
    one["1"]["inputs"]["text_encoder"] = encoder
    images = execute(nodes, one, {})["2"][0][1]
    same = tiny_text_pipeline()("a red boat", generator=[torch.Generator().manual_seed(0)], output_type="pt").images
    assert torch.equal(images[0, ..., 0], same[0, 0])
