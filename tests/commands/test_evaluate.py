"""The command as a user types it, on a tiny pipeline and a tiny random classifier."""

import argparse
import json
import multiprocessing
import os
import re
import resource
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_autonat import AdaptivePolicyModel, GenerationStrategy, HaltonScheduler
from diffusers_autonat.cli import main
from diffusers_autonat.cost import pipeline_cost
from diffusers_autonat.metrics import EvaluationCheckpoint, load_extractor, load_reference
from diffusers_autonat.metrics.image_files import ImageArchive, ImageFolder, image_writer
from diffusers_autonat.provenance import model_hash
from search.arguments import add_evaluation_arguments, judge_of
from tests.conftest import save_tiny_classifier, tiny_pipeline


@pytest.fixture(scope="module")
def place(tmp_path_factory, idx_folder):
    """A folder with `pipeline`, `judge` (a random classifier) and `reference.npz`."""
    folder = tmp_path_factory.mktemp("evaluate")
    tiny_pipeline().save_pretrained(folder / "pipeline")
    save_tiny_classifier(folder / "judge")
    main(["reference", str(idx_folder), "--feature-extractor", str(folder / "judge"),
          "--feature-rows", "10000", "--output", str(folder / "reference.npz")])  # fmt: skip
    return folder


def command(place, output, *more, num_images=40, metrics="fid,class"):
    return ["evaluate", str(place / "pipeline"), "--feature-extractor", str(place / "judge"), "--metrics", metrics,
            "--reference", str(place / "reference.npz"), "--num-images", str(num_images), "--num-inference-steps", "4",
            "--output", str(output), *more]  # fmt: skip


@pytest.fixture(scope="module")
def second(place, idx_folder):
    """Another judge, and its reference."""
    save_tiny_classifier(place / "second", seed=1)
    reference = place / "second.npz"
    main(["reference", str(idx_folder), "--feature-extractor", str(place / "second"), "--feature-rows", "10000",
          "--output", str(reference)])  # fmt: skip
    return ["--second-feature-extractor", str(place / "second"), "--second-reference", str(reference)]


@pytest.fixture(scope="module")
def report(place, second):
    output, images = place / "expected.json", place / "expected"
    main(command(place, output, "--save-images", str(images), *second, metrics="fid,kid,is,prdc,class,per_class"))
    return json.loads((place / "expected.json").read_text())


def test_a_number_is_never_without_its_making(place, report, tmp_path, capsys):
    main(command(place, tmp_path / "r.json", "--seed", "5", "--guidance-scale", "0.5"))
    out = capsys.readouterr()
    made, strategy = json.loads((tmp_path / "r.json").read_text()), GenerationStrategy.cosine(4)
    assert made["images"] == {
        "kind": "generated", "num_images": 40, "label_policy": "balanced", "seed": 5, "noise": "cpu",
        "num_inference_steps": 4, "strategy_source": "stored", "strategy": json.loads(json.dumps(strategy.to_dict())),
        "guidance_scale": 0.5,
    }  # fmt: skip
    extractor = load_extractor(str(place / "judge"))
    assert made["extractor"] == extractor.identity()
    assert made["reference"]["hash"] == load_reference(place / "reference.npz", extractor).hash
    assert made["pipeline"]["name"] == "pipeline" and made["pipeline"]["dtype"] == "float32"
    assert (
        made["run"]["num_processes"] == 1
        and made["run"]["images_per_second"] > 0
        and "torch" in made["run"]["versions"]
    )
    for text in ("40 generated, balanced labels, seed 5", "T = 4, stored, guidance x 0.5", extractor.weights_hash,
                 made["reference"]["hash"], made["pipeline"]["transformer"], "64 images", "torch "):  # fmt: skip
        assert text in out.out
    assert set(made["values"]) == {"frechet_distance", "class_consistency"}
    # The network is not Inception, so nothing that is shown or written may carry that name.
    assert not re.search(r"\b(fid|kid|inception_score)\b", (out.out + (tmp_path / "r.json").read_text()).lower())
    assert "frechet" in out.out and not (tmp_path / "r.json.state").exists()
    assert report["images"]["seed"] == 0 and report["values"]["frechet_distance"] != made["values"]["frechet_distance"]


def test_saved_images_are_the_measured_ones(place, report, tmp_path, fashion_mnist):
    """As PNG files and as the ADM evaluator's archive; measured again they give the same statistics."""
    files = sorted((place / "expected").iterdir())
    assert [file.name for file in files] == [f"{i:06d}.png" for i in range(40)]
    archive = tmp_path / "images.npz"
    main(command(place, tmp_path / "r.json", "--save-images", str(archive), "--batch-size", "1", metrics="fid"))
    with np.load(archive) as saved:
        assert saved["arr_0"].shape == (40, 28, 28, 3) and saved["arr_0"].dtype == np.uint8
        assert np.bincount(saved["arr_1"]).tolist() == [10] * 4
        for image, file in zip(saved["arr_0"], files):
            assert np.array_equal(image[..., 0], np.asarray(Image.open(file)))
        assert (saved["arr_0"][..., :1] == saved["arr_0"]).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.npz", "r.json"]
    extractor = load_extractor(str(place / "judge"))
    from_folder, from_archive = (load_reference(path, extractor) for path in (place / "expected", archive))
    assert from_folder.hash == from_archive.hash
    with pytest.raises(SystemExit, match="exists already"):
        main(command(place, tmp_path / "other.json", "--save-images", str(archive)))


def test_the_shipped_reference_is_of_the_shipped_classifier():
    """After training the classifier anew the reference must be made anew (docs/evaluation.md has the command)."""
    folder = Path(__file__).parents[2] / "model_cards" / "fashion-mnist-classifier"
    reference = load_reference(folder / "fashion-mnist-test.npz", load_extractor(str(folder)))
    assert reference.num_images == 10_000 and reference.labels.bincount().tolist() == [1000] * 10
    assert (folder / "fashion-mnist-test.npz").stat().st_size <= 200_000


def test_a_reference_of_photos_is_cropped_to_the_pipelines_images(place, tmp_path, fashion_mnist, capsys):
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(fashion_mnist[0]):
        Image.fromarray(np.pad(image, ((0, 0), (20, 20)), constant_values=255)).save(
            tmp_path / "photos" / f"{i:02d}.png"
        )
    main(command(place, tmp_path / "r.json", "--reference", str(tmp_path / "photos"), metrics="fid"))
    made = json.loads((tmp_path / "r.json").read_text())
    expected = load_reference(place / "reference.npz", load_extractor(str(place / "judge")))
    assert made["reference"]["hash"] == expected.hash
    assert (made["reference"]["resolution"], made["reference"]["extractor"]) == (28, "recorded")
    main(["reference", str(tmp_path / "photos"), "--feature-extractor", str(place / "judge"),
          "--resolution", "20", "--output", str(tmp_path / "20.npz")])  # fmt: skip
    main(command(place, tmp_path / "20.json", "--reference", str(tmp_path / "20.npz"), metrics="fid"))
    assert "cropped to 20 pixels, the pipeline's have 28" in capsys.readouterr().err


def test_images_that_have_gone_are_missed(tmp_path):
    images, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    for writer in (ImageFolder(tmp_path / "folder"), ImageArchive(tmp_path / "archive.npz")):
        writer(images, labels, torch.arange(4, 8))
        assert not writer.is_complete(8)
        with pytest.raises(ValueError, match="start over"):
            writer.finish(8)
        writer(images, labels, torch.arange(4))
        writer.finish(8)
        assert writer.is_complete(8)


def test_damaged_parts_of_an_archive_are_named(tmp_path):
    writer = ImageArchive(tmp_path / "archive.npz")
    writer(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), None, torch.arange(4))
    (part,) = writer.parts.iterdir()
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match="000000000.npz is damaged .*: delete what there is of it .* start over"
    ) as error:
        writer.finish(4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["folder", "archive.npz"])
def test_a_full_disk_under_saved_images_is_named(tmp_path, name):
    limit, writer = resource.getrlimit(resource.RLIMIT_FSIZE), image_writer(str(tmp_path / name))
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large: '.*0.*g'|File too large: '.*0.npz'"):
            writer(torch.randint(256, (4, 1, 28, 28), dtype=torch.uint8), None, torch.arange(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    writer(torch.zeros(4, 1, 28, 28, dtype=torch.uint8), None, torch.arange(4))
    writer.finish(4)


def test_reconstructions(place, idx_folder, tmp_path, capsys):
    main(["evaluate", str(place / "pipeline"), "--reconstruct", str(idx_folder), "--metrics", "fid",
          "--feature-extractor", str(place / "judge"), "--reference", str(place / "reference.npz"),
          "--output", str(tmp_path / "r.json")])  # fmt: skip
    made = json.loads((tmp_path / "r.json").read_text())
    assert made["images"]["kind"] == "reconstructed" and made["images"]["num_images"] == 64
    assert "64 reconstructed from" in capsys.readouterr().out
    pipe, extractor = tiny_pipeline(), load_extractor(str(place / "judge"))
    reference = load_reference(place / "reference.npz", extractor)
    with np.load(Path(__file__).parents[1] / "fixtures" / "fashion_mnist_64.npz") as file:
        images = torch.from_numpy(file["images"])[:, None]
    with torch.no_grad():
        latents = pipe.vqvae.encode(images / 255).latents
        decoded = pipe.vqvae.decode(latents).sample.clamp(0, 1)
    features = extractor(decoded)[0].double()
    mean, covariance = features.mean(dim=0), features.T.cov()
    product = torch.linalg.eigvals(covariance @ reference.sigma).real.clamp(min=0).sqrt().sum()
    expected = (mean - reference.mu).square().sum() + covariance.trace() + reference.sigma.trace() - 2 * product
    assert made["values"]["frechet_distance"] == pytest.approx(expected.item(), rel=1e-4)
    with pytest.raises(SystemExit, match="generates nothing: leave out --seed, --label-policy"):
        main(["evaluate", str(place / "pipeline"), "--reconstruct", str(idx_folder), "--seed", "3",
              "--label-policy", "uniform", "--metrics", "class", "--output", str(tmp_path / "x.json")])  # fmt: skip
    with pytest.raises(SystemExit, match="--num-images 65: .* has only 64 images"):
        main(["evaluate", str(place / "pipeline"), "--reconstruct", str(idx_folder), "--metrics", "fid",
              "--feature-extractor", str(place / "judge"), "--reference", str(place / "reference.npz"),
              "--num-images", "65", "--output", str(tmp_path / "x.json")])  # fmt: skip


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--metrics", "fid,fud"], "not 'fud'"),
        (["--num-inference-steps", "6"], "only for"),
        (["--strategy", "missing.json"], "missing.json"),
        (["--seed", "-1"], "--seed -1"),
        (["--num-images", "1"], "at least 2"),
        (["--num-images", "5", "--metrics", "prdc"], "5 image.s. are too few: .* at least 6"),
        (["--guidance-scale", "nan"], "--guidance-scale nan must be a number"),
        (["--guidance-scale", "-1"], "--guidance-scale -1 must be a number of at least 0"),
        (["--output", "/"], "--output / is a folder"),
        (["--output", "/dev/null/r.json"], "/dev/null/r.json cannot be written"),
        (["--save-images", "/dev/null/images"], "/dev/null/images cannot be written"),
        (["--reference", "nowhere.npz"], "There is no reference nowhere.npz"),
        (["--feature-extractor", "no/where"], "not reachable|not a local folder"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(place, tmp_path, more, message):
    with pytest.raises(SystemExit, match=message) as error:
        main(command(place, tmp_path / "r.json", *more))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_pipelines_that_lead_nowhere(place, tmp_path):
    for name, message in (
        (str(tmp_path / "absent"), "is no folder of a pipeline"),
        (str(place / "reference.npz"), "is no pipeline folder"),
    ):
        arguments = ["evaluate", name, "--metrics", "class", "--feature-extractor", str(place / "judge")]
        with pytest.raises(SystemExit, match=f"{name} {message}"):
            main([*arguments, "--output", str(tmp_path / "r.json")])


def test_what_does_not_fit_is_said_before_a_reference_is_measured(place, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "diffusers_autonat.metrics.references.compute_reference", lambda *_, **__: pytest.fail("measured")
    )
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "000000.png").touch()
    (tmp_path / "r.json.state").mkdir()
    save_tiny_classifier(tmp_path / "three", num_labels=3)
    for more, message in (
        (["--feature-extractor", str(tmp_path / "three")], "knows 3 classes and the pipeline has 4"),
        (["--save-images", str(tmp_path / "images")], "images exists already"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(command(place, tmp_path / "r.json", *more, "--reference", str(image_folder)))
    (tmp_path / "r.json.state" / "0001-00000.pt").touch()
    with pytest.raises(SystemExit, match="r.json.state holds an unfinished evaluation: add --resume"):
        main(command(place, tmp_path / "r.json", "--reference", str(image_folder)))


def test_warnings_come_before_the_images_and_stay_with_the_number(place, tmp_path, capsys):
    arguments = command(place, tmp_path / "r.json", num_images=6, metrics="class, fid")
    main(arguments)
    out = capsys.readouterr()
    message = (
        "The covariance of 6 features is rank-deficient with 6 images: the distance is biased upwards. Use at least 7"
    )
    assert out.err.count(message) == 1 and out.err.index(message) < out.err.index("generated: 100%")
    assert f"warning            {message}" in out.out
    made = json.loads((tmp_path / "r.json").read_text())
    assert len(made["warnings"]) == 1 and made["warnings"][0].startswith(message)


def test_a_slow_dtype_is_told_of_the_machine_and_not_of_the_number(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"architecture": "x86_64"})  # no AVX512
    main([*command(place, tmp_path / "r.json", num_images=6, metrics="class"), "--dtype", "bfloat16"])
    assert "leave --dtype bfloat16 out" in capsys.readouterr().err
    assert json.loads((tmp_path / "r.json").read_text())["warnings"] == []


def test_the_search_reads_the_same_reference(place, tmp_path, fashion_mnist, idx_folder):
    (tmp_path / "wide").mkdir()
    for i, image in enumerate(fashion_mnist[0]):
        Image.fromarray(np.pad(image, ((0, 0), (20, 20)))).save(tmp_path / "wide" / f"{i:02d}.png")
    parser = argparse.ArgumentParser()
    add_evaluation_arguments(parser)
    expected = load_reference(place / "reference.npz", load_extractor(str(place / "judge"))).hash
    for source, pipeline, more in (
        (idx_folder, None, []),
        (f"{idx_folder}:train", None, []),
        (tmp_path / "wide", tiny_pipeline(), []),
        (tmp_path / "wide", None, ["--resolution", "28"]),
    ):
        arguments = ["--reference", str(source), "--feature-extractor", str(place / "judge"), *more]
        assert judge_of(parser.parse_args(arguments), pipeline).reference.hash == expected


def test_a_pipeline_is_needed_and_a_reference_to_compare_with(place, tmp_path, capsys):
    for arguments in ([], ["--reference", "x", "--reconstruct", "x"]):
        with pytest.raises(SystemExit) as error:
            main(["evaluate", *arguments])
        assert error.value.code == 2 and "arguments are required: pipeline, --output" in capsys.readouterr().err
    words = ["evaluate", str(place / "pipeline"), "--output", str(tmp_path / "x.json")]
    with pytest.raises(SystemExit, match="--label-policy .* give --ref"):
        main([*words, "--metrics", "class", "--label-policy", "reference"])
    with pytest.raises(SystemExit, match="give --reference, or ask for --metrics is,class"):
        main([*words, "--feature-extractor", str(place / "judge")])


def work(rank, world, port, arguments, kill_at, directory):
    """`accelerate launch` in small: the environment it sets, and a kill at the n-th save of the state."""
    torch.set_num_threads(1)
    os.chdir(directory)
    if world > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
                          MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")  # fmt: skip
    saves, write = 0, EvaluationCheckpoint._write

    def killing(self, collections):
        nonlocal saves
        saves += 1
        if saves == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, collections)

    EvaluationCheckpoint._write = killing
    main(arguments)


def launch(world, arguments, kill_at, directory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.commands.test_evaluate", "transformers.models.regnet.modeling_regnet"])
    arguments = (world, port, arguments, kill_at, str(directory))
    workers = [context.Process(target=work, args=(rank, *arguments)) for rank in range(world)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=600)
    return [worker.exitcode for worker in workers]


@pytest.mark.parametrize("kill_at", [1, 2, 3])
def test_killed_and_resumed(kill_at, place, report, second, tmp_path):
    """Killed before the first, the second and the third save (1 is the empty one); then resumed to the same number."""
    images = tmp_path / "images.npz"
    arguments = command(place, tmp_path / "r.json", "--save-seconds", "0", "--batch-size", "1", "--resume",
                        "--save-images", str(images), *second, metrics="fid,kid,is,prdc,class,per_class")  # fmt: skip
    assert launch(1, arguments, kill_at, tmp_path) == [-signal.SIGKILL]
    assert not (tmp_path / "r.json").exists() and not images.exists()
    if kill_at > 1:
        with pytest.raises(SystemExit, match="unfinished evaluation: add --resume"):
            main([argument for argument in arguments if argument != "--resume"])
        with pytest.raises(SystemExit, match="with other images.seed: delete the folder"):
            main([*arguments, "--seed", "1"])
        with pytest.raises(SystemExit, match="with other save_images: delete the folder"):
            main([*arguments, "--save-images", str(tmp_path / "others")])
    earlier = 0.0
    for path in (tmp_path / "r.json.state").glob("*.pt"):  # as if the killed run had taken long
        state = torch.load(path)
        earlier = state["elapsed"] = 1000.0
        torch.save(state, path)
    main(arguments)
    made = json.loads((tmp_path / "r.json").read_text())
    assert made["values"] == report["values"]
    assert made["run"]["resumed_images"] == 32 * max(kill_at - 2, 0)
    assert made["run"]["seconds"] > earlier
    with np.load(images) as saved:
        assert np.array_equal(saved["arr_0"][39, ..., 0], np.asarray(Image.open(place / "expected" / "000039.png")))
    # Asked again, nothing is generated, and what a kill at the very end has left is tidied.
    before = (tmp_path / "r.json").read_text()
    (tmp_path / "r.json.state").mkdir()
    main(arguments)
    assert (tmp_path / "r.json").read_text() == before and not (tmp_path / "r.json.state").exists()
    # But not a success without the images that are asked for.
    for elsewhere in ("elsewhere", "elsewhere.npz"):
        with pytest.raises(SystemExit, match="its images are not in .*elsewhere"):
            main([*arguments, "--save-images", str(tmp_path / elsewhere)])


def test_resuming_with_other_metrics_is_another_evaluation(place, tmp_path):
    for metrics, values in (("fid", {"frechet_distance"}), ("fid,class", {"frechet_distance", "class_consistency"})):
        main(command(place, tmp_path / "r.json", "--resume", num_images=10, metrics=metrics))
        assert set(json.loads((tmp_path / "r.json").read_text())["values"]) == values


def test_a_second_extractor_measures_the_same_images(place, second, tmp_path, capsys):
    main(command(place, tmp_path / "both.json", *second))
    assert "second extractor" in (out := capsys.readouterr().out) and "second reference" in out
    alone = [*second[1::2]]
    main([*command(place, tmp_path / "alone.json"), "--feature-extractor", alone[0], "--reference", alone[1]])
    main(command(place, tmp_path / "first.json"))
    both, first, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("both", "first", "alone"))
    assert both["values"] == first["values"] | {f"second_{name}": value for name, value in other["values"].items()}
    assert both["second_extractor"] == other["extractor"] and both["second_reference"] == other["reference"]
    assert "second_extractor" not in first
    # Finished: nothing is generated again, but without the second it is another evaluation.
    main(command(place, tmp_path / "both.json", *second, "--resume"))
    assert json.loads((tmp_path / "both.json").read_text()) == both
    main(command(place, tmp_path / "both.json", "--resume"))
    assert json.loads((tmp_path / "both.json").read_text())["values"] == first["values"]


def test_a_second_extractor_measures_what_it_can(place, idx_folder, tmp_path):
    save_tiny_classifier(tmp_path / "other", num_labels=3, seed=2)
    more = ["--second-feature-extractor", str(tmp_path / "other")]
    main(command(place, tmp_path / "r.json", *more, "--reference", str(idx_folder)))  # images do for both
    values = json.loads((tmp_path / "r.json").read_text())["values"]
    assert set(values) == {"frechet_distance", "class_consistency", "second_frechet_distance"}
    for arguments, message in (
        (command(place, tmp_path / "x.json", *more), "of its own: --second-reference"),
        (command(place, tmp_path / "x.json", *more, metrics="class"), "can measure none of --metrics class"),
        (command(place, tmp_path / "x.json", more[0], str(place / "judge")), "whose opinion it would repeat"),
        (command(place, tmp_path / "x.json", "--second-reference", str(idx_folder)), "goes with --second-feature-e"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(arguments)
    assert not (tmp_path / "x.json").exists()


def test_several_processes(place, report, second, tmp_path):
    images = tmp_path / "images.npz"
    arguments = command(
        place, tmp_path / "r.json", "--save-images", str(images), *second, metrics="fid,kid,is,prdc,class,per_class"
    )
    assert launch(2, arguments, 0, tmp_path) == [0, 0]
    made = json.loads((tmp_path / "r.json").read_text())
    assert made["values"] == report["values"] and made["run"]["num_processes"] == 2
    with np.load(images) as saved:
        assert np.array_equal(saved["arr_0"][39, ..., 0], np.asarray(Image.open(place / "expected" / "000039.png")))


def test_a_policy_decides_and_is_named(place, tmp_path, capsys):
    pipe = tiny_pipeline()
    torch.manual_seed(0)
    policy = AdaptivePolicyModel(in_channels=32, hidden_size=16, grid_size=7, num_inference_steps=3)
    torch.nn.init.normal_(policy.proj_out.weight)
    pipe.register_modules(policy=policy)
    pipe.save_pretrained(tmp_path / "pipeline")
    options = [
        option for option in command(place, tmp_path / "r.json") if option not in ("--num-inference-steps", "4")
    ]
    options[1] = str(tmp_path / "pipeline")
    main(options)
    assert "T = 3, the policy, guidance x 1" in capsys.readouterr().out
    made = json.loads((tmp_path / "r.json").read_text())
    assert made["images"]["strategy"] is None and made["images"]["num_inference_steps"] == 3
    assert made["pipeline"]["policy"] == model_hash(policy) and "scheduler" not in made["pipeline"]
    # Both at two steps; the first step is made once for each of four classes, and for none. Two calls of 32 are made.
    assert made["run"]["passes_per_image"] == 4 + 5 / 64
    assert made["run"]["macs_per_image"] == pipeline_cost(pipe, None).total
    with pytest.raises(SystemExit, match="the policy is for 3 steps"):
        main([*options, "--num-inference-steps", "4"])


def test_another_order_is_named(place, tmp_path, capsys):
    pipe = tiny_pipeline()
    pipe.scheduler = HaltonScheduler(16)
    pipe.save_pretrained(tmp_path / "pipeline")
    options = command(place, tmp_path / "r.json")
    options[1] = str(tmp_path / "pipeline")
    main(options)
    assert "T = 4, heuristic, guidance x 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["pipeline"]["scheduler"] == "HaltonScheduler"
