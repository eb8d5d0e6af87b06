import importlib.metadata
import platform

import torch

from diffusers_autonat.provenance import hardware, model_hash, pipeline_hash, versions
from tests.conftest import tiny_pipeline, tiny_vqvae


def test_model_hash_knows_weights_not_their_precision():
    vqvae = tiny_vqvae()
    assert model_hash(vqvae) == model_hash(tiny_vqvae()) != model_hash(tiny_vqvae(seed=1))
    half = tiny_vqvae().half()
    assert model_hash(half) == model_hash(tiny_vqvae().half().float()) != model_hash(vqvae)


def test_pipeline_hash():
    pipe = tiny_pipeline()
    assert pipeline_hash(pipe) == pipeline_hash(tiny_pipeline()) != pipeline_hash(tiny_pipeline(seed=1))
    with torch.no_grad():
        next(pipe.vqvae.parameters()).view(-1)[0] += 1e-3
    assert pipeline_hash(pipe) != pipeline_hash(tiny_pipeline())


def test_machine_and_versions():
    threads = torch.get_num_threads()
    of_processor = f", {threads} threads" if threads > 1 else ", 1 thread"
    assert hardware().endswith(of_processor) or torch.cuda.is_available()
    assert versions("torch") == {"python": platform.python_version(), "torch": importlib.metadata.version("torch")}
