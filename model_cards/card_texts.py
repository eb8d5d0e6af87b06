"""The texts of the shipped cards; `make_cards.py` fills in what a run has recorded."""

CLASSIFIER = """---
library_name: transformers
license: apache-2.0
pipeline_tag: image-classification
datasets:
- zalando-datasets/fashion_mnist
tags:
- fashion-mnist
- evaluation
---

# Fashion-MNIST classifier

A RegNet of {parameters:,} parameters that recognises {test_accuracy:.2%} of the 10,000 Fashion-MNIST test images. It is the
judge and the feature extractor of the Fashion-MNIST models of
[diffusers-autonat](https://pypi.org/project/diffusers-autonat/), and took no part in their training.

```python
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("fashion-mnist-classifier", backend="pil")  # grey images, enlarged
model = AutoModelForImageClassification.from_pretrained("fashion-mnist-classifier")
```

Trained on the 60,000 training images by `accelerate launch training/train_classifier.py` ({epochs} epochs, seed {seed},
{minutes:.0f} minutes on {hardware}, a machine shared with other runs), with shifts of up to two pixels and label smoothing
0.05. [fashion-mnist-test.npz](fashion-mnist-test.npz) holds its features' statistics over the 10,000 test images; a distance
on these features is not FID.

```bash
diffusers-autonat evaluate autonat-fashion-mnist --reference fashion-mnist-classifier/fashion-mnist-test.npz \\
    --feature-extractor fashion-mnist-classifier --metrics fid,class --num-images 1000 --output report.json
```
"""

GENERATOR = """---
library_name: diffusers
license: apache-2.0
pipeline_tag: unconditional-image-generation
datasets:
- zalando-datasets/fashion_mnist
tags:
- diffusers
- {tag}
- masked-image-generation
- class-conditional
---

# {title} on Fashion-MNIST

A small class-conditional masked-token model ({paper}): a VQ
tokenizer (28 x 28 grey images to {side} x {side} tokens of a {codes}-entry codebook, {tokenizer_parameters:.2f}M parameters) and
{transformer} of {parameters:,} parameters, both trained by the scripts of
[diffusers-autonat](https://pypi.org/project/diffusers-autonat/) on the 60,000 training images. It is there to see, test and
search with, not to compete.

```python
import torch
from diffusers_autonat import AutoNATPipeline

pipe = AutoNATPipeline.from_pretrained("{folder}")
images = pipe(["Sneaker", "Bag"], num_inference_steps=8, generator=torch.Generator().manual_seed(0)).images
```

![eight samples of each class at T = 8, seed 0](samples.png)

Rows: {classes}. The picture is what
`diffusers-autonat generate {folder} --num-images 8 --seed 0` draws.

## Strategies

{strategies}

## Quality

Distances are Fréchet distances on the {features} features of [fashion-mnist-classifier](../fashion-mnist-classifier/README.md)
(weights {extractor_hash}), which is no Inception network: they are **not** FID and compare with nothing measured
elsewhere. "Recognised" is the share of images that this classifier takes for the class that was asked for. Reference:
the 10,000 test images (hash {reference_hash}).

| images (N = {report_images:,}) | distance | recognised | report |
|---|---|---|---|
| reconstructions of test images | {floor[frechet_distance]:.3f} | {floor[class_consistency]:.1%} | [reconstructions.json](evaluation/reconstructions.json) |
{stored_rows}

Generated with balanced labels, seed {report_seed}, float32. Of all 10,000 test images the classifier recognises
{real[class_consistency]:.1%}, of their reconstructions {reconstructed[class_consistency]:.1%}. `diffusers-autonat evaluate` makes every report
again:

```bash
diffusers-autonat evaluate {folder} --num-inference-steps 8 --num-images {report_images} --seed {report_seed} \\
    --metrics fid,class --feature-extractor fashion-mnist-classifier \\
    --reference fashion-mnist-classifier/fashion-mnist-test.npz --output report.json
```

The paper's heuristic, lambda and k from a grid (N = {num_images:,}, seed {seed}; `benchmarks/heuristic_grid.py`, [grid.json](evaluation/grid.json)):

| T |{tau1_head} lambda | k | distance | recognised |
|---|{tau1_rule}---|---|---|---|
{grid_rows}

Measured on {evaluated_on}.
{comparison}
## Training

`bash training/fashion_mnist.sh` has every command. Float32, on {hardware}, a machine shared with other runs, so that
the times are upper bounds:

| part | what was run | time |
|---|---|---|
| perceptual network | RegNet of {perceptual[parameters]:,} parameters, {perceptual[epochs]} epochs, test accuracy {perceptual[test_accuracy]:.1%} | {perceptual_minutes:.0f} min |
| tokenizer | {tokenizer_steps} steps of {tokenizer_batch} images: with 256 codes, with 512, then twice with more weight on the perceptual loss; adversarial loss in all | {tokenizer_minutes:.0f} min |
| transformer | {transformer_steps} steps of {batch} images ({seen:,} in all), Beta(12, 3), EMA 0.999 | {minutes:.0f} min |

{notes}Loss and masked-token accuracy at the end: {loss:.2f} and {accuracy:.1%} (low is normal: many codes fit a place).

![loss and token accuracy of the transformer](training.png)
{jump}
![test of the tokenizer: originals above, reconstructions below](reconstructions.png)

Weights are stored in half precision and loaded in float32; against the float32 weights {equal_tokens:.1%} of the tokens of 100
images drawn with equal noise are the same.

## Limits

- Fine print and checks are blurred by a tokenizer of {num_tokens} tokens; sandals break apart more often than other classes.
- Fashion-MNIST has ten classes and one view of each; the model knows nothing else.
- The tokenizer was trained against features of a network trained on the same images (another one than the judge).
"""

COMPARISON = """
## Beside AutoNAT

The same tokenizer, and a transformer that has seen as many images ({other_seen:,}) and has {other_parameters:,} parameters:
[autonat-fashion-mnist](../autonat-fashion-mnist/README.md). Both use their heuristic, lambda and k (and ENAT's tau1) from a
grid. Multiply-accumulates are those of one image, decoder included;
speeds are medians of {rounds} interleaved rounds (`benchmarks/pipelines.py`,
[pipelines.json](../../benchmarks/results/pipelines.json), {hardware}).

| T | model | distance | recognised | multiply-accumulates | images/s, batch 1 | images/s, batch 64 |
|---|---|---|---|---|---|---|
{rows}

{verdict}
"""
