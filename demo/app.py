"""Draw with a masked-token pipeline in the browser: classes or prompts, strategies, the steps of an image, inpainting.

    python demo/app.py                                # the shipped model, on http://127.0.0.1:7860
    python demo/app.py outputs/autonat/pipeline       # a folder, or a Hub id

On a Space of the Hub the variable AUTONAT_PIPELINE names the pipeline.
"""

import html
import math
import os
import random
from pathlib import Path

import gradio as gr
import numpy as np
from drawing import CURVES, HEURISTIC, MAX_SEED, STORED, Drawn, Limits, Studio, enlarged

from diffusers_autonat.cards import escape
from diffusers_autonat.command_line import Parser, one_line_errors, positive, whole


SHIPPED = Path(__file__).resolve().parents[1] / "model_cards" / "autonat-fashion-mnist"
VARIABLE, ENCODER_VARIABLE = "AUTONAT_PIPELINE", "AUTONAT_TEXT_ENCODER"

# Schedule -> what it is called, largest value, first and last value at the start: nearly the heuristic's.
SLIDERS = {
    "mask_ratios": ("Share still masked, r", 1.0, 0.98, 0.2),
    "sampling_temperatures": ("Randomness of the tokens, τ₁", 3.0, 1.0, 1.0),
    "remasking_temperatures": ("Randomness of what is kept, τ₂", 10.0, 4.5, 0.5),
    "guidance_scales": ("Guidance, s", 5.0, 0.5, 3.0),
}
COLUMNS, ROW = 4, 250  # of the galleries: images in a row, and its height in pixels
# One call at a time: it takes all of the machine, and matplotlib's state is that of the process.
ALONE = {"concurrency_id": "drawing", "concurrency_limit": 1}


def make_app(studio: Studio) -> gr.Blocks:
    """The page for a pipeline. What comes from the model or from visitors is shown as text."""
    limits, kinds = studio.limits, studio.kinds
    with gr.Blocks(title="AutoNAT", analytics_enabled=False) as app:
        gr.Markdown(
            f"# {escape(studio.name)}\n\nImages from masked tokens, in a few steps, each with its own parameters: "
            "[AutoNAT](https://huggingface.co/papers/2406.05478)."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                if studio.takes_prompts:
                    what = gr.Textbox(label="Prompt", max_length=limits.prompt, elem_id="what")
                else:
                    names = studio.class_names
                    what = gr.Dropdown(names, value=names[0], label="Class", elem_id="what")
                num_images = gr.Slider(
                    1, limits.images, min(4, limits.images), step=1, label="Images", elem_id="num-images"
                )
                with gr.Row():
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed")
                    new_seed = gr.Checkbox(False, label="A new one each time")
                kind = gr.Radio(kinds, value=kinds[0], label="Strategy", elem_id="kind")
                stored_steps = gr.Radio(
                    studio.stored_steps, value=max(studio.stored_steps, default=None), label="Steps, T",
                    visible=kinds[0] == STORED, elem_id="stored-steps",
                )  # fmt: skip
                steps = gr.Slider(
                    1, limits.steps, min(8, limits.steps), step=1, label="Steps, T", visible=kinds[0] != STORED, elem_id="steps"
                )  # fmt: skip
                with gr.Column(visible=kinds[0] == HEURISTIC) as of_heuristic:
                    lam = gr.Slider(
                        0, 20, studio.heuristic_settings[0], label="Randomness of what is kept, λ", elem_id="lambda"
                    )
                    k = gr.Slider(0, 10, studio.heuristic_settings[1], label="Guidance, k", elem_id="k")
                with gr.Column(visible=False) as of_curves:
                    gr.Markdown("A straight line for each; r is 0 after the last step, its line ends one before.")
                    ends = []
                    for name, (label, high, *at_start) in SLIDERS.items():
                        gr.Markdown(f"**{label}**")
                        with gr.Row():
                            for end, value in zip(("first", "last"), at_start):
                                ends.append(
                                    gr.Slider(0, high, value, label=end, min_width=120, elem_id=f"{name}-{end}")
                                )
            with gr.Column(scale=5):
                with gr.Tabs():
                    with gr.Tab("Generate"):
                        generate = gr.Button("Generate", variant="primary", elem_id="generate")
                        images = gr.Gallery(label="Images", columns=COLUMNS, height=ROW, format="png", object_fit="contain",
                                            interactive=False, elem_id="images")  # fmt: skip
                        send = gr.Button(
                            "Take an image to Inpaint: the one that is opened, or the first", elem_id="send"
                        )
                    with gr.Tab("Inpaint", elem_id="inpaint-tab"):
                        editor = gr.ImageEditor(
                            label="Paint over what is to be drawn anew", type="pil", format="png", height=420,
                            canvas_size=(400, 300), transforms=(), sources=("upload", "clipboard"),
                            layers=gr.LayerOptions(disabled=True), elem_id="editor",
                            brush=gr.Brush(default_size=24, colors=["#D55E00"], color_mode="fixed"),
                        )  # fmt: skip
                        with gr.Row():
                            strength = gr.Slider(0.05, 1, 1, label="Share of the painted that is drawn anew")
                            keep = gr.Checkbox(True, label="All other pixels stay as they are")
                        inpaint = gr.Button("Inpaint", variant="primary", elem_id="inpaint")
                        inpainted = gr.Gallery(label="Images", columns=COLUMNS, height=ROW, format="png", object_fit="contain",
                                               interactive=False, elem_id="inpainted")  # fmt: skip
                said = gr.Textbox(label="Time", interactive=False, elem_id="said")
                plain = {
                    "show_label": False,
                    "format": "png",
                    "interactive": False,
                    "buttons": ["download", "fullscreen"],
                }
                strip = gr.Image(label="Steps", elem_id="strip", **plain)
                schedules = gr.Image(label="Schedules", elem_id="schedules", **plain)
        chosen = gr.State(0)
        settings = [kind, stored_steps, steps, lam, k, *ends]
        wished = [what, num_images, seed, new_seed, *settings]

        def strategy_of(kind, stored, steps, lam, k, *ends):
            curves = dict(zip(SLIDERS, zip(ends[::2], ends[1::2])))
            settings = {"remasking_temperature": lam, "guidance_scale": k}
            return studio.strategy(kind, stored if kind == STORED else steps, settings, curves)

        def wish_of(what, num_images, seed, new_seed, kind, *rest):
            seed = random.randrange(MAX_SEED) if new_seed else seed
            return studio.wish(what, num_images, seed, strategy_of(kind, *rest))

        def shown(drawn: Drawn, wish, kind):
            captioned = [(image, wish.what) for image in drawn.images]
            gallery = gr.Gallery(captioned, height=ROW * min(2, math.ceil(len(captioned) / COLUMNS)))
            return gallery, drawn.said, drawn.steps, studio.schedules(wish.strategy, kind), wish.seed

        @as_messages
        def on_generate(*wished):
            wish = wish_of(*wished)
            return *shown(studio.draw(wish), wish, wished[4]), 0

        @as_messages
        def on_inpaint(edited, strength, keep, *wished):
            if not edited or edited.get("background") is None:
                raise ValueError("There is no image yet: upload one, or take one that was generated.")
            painted = np.any([np.asarray(layer.convert("RGBA"))[..., 3] > 127 for layer in edited["layers"]], axis=0)
            wish = wish_of(*wished)
            return shown(studio.inpaint(wish, edited["background"], painted, strength, keep), wish, wished[4])

        @as_messages
        def on_settings(*settings):
            return studio.schedules(strategy_of(*settings), settings[0])

        @as_messages
        def on_send(made, chosen):
            if not made:
                raise ValueError("Generate an image first.")
            image = made[min(chosen, len(made) - 1)][0]
            return {"background": enlarged(studio.square(image)), "layers": [], "composite": None}

        def on_select(event: gr.SelectData):
            return event.index

        def on_kind(kind):
            is_stored = kind == STORED
            return (gr.update(visible=is_stored), gr.update(visible=not is_stored),
                    gr.update(visible=kind == HEURISTIC), gr.update(visible=kind == CURVES))  # fmt: skip

        results = [said, strip, schedules, seed]
        generate.click(on_generate, wished, [images, *results, chosen], api_name="generate", **ALONE)
        inpaint.click(
            on_inpaint, [editor, strength, keep, *wished], [inpainted, *results], api_visibility="private", **ALONE
        )
        images.select(on_select, None, chosen, api_visibility="private", queue=False)
        send.click(on_send, [images, chosen], editor, api_visibility="private", **ALONE)
        kind.change(
            on_kind, kind, [stored_steps, steps, of_heuristic, of_curves], api_visibility="private", queue=False
        )
        changes = [one.release for one in (steps, lam, k, *ends)] + [kind.change, stored_steps.change, app.load]
        gr.on(changes, on_settings, settings, schedules, trigger_mode="always_last", show_progress="hidden",
              api_visibility="private", **ALONE)  # fmt: skip
    app.queue(max_size=limits.queue)
    return app


def as_messages(draw):
    """Errors of the visitor as a message; Gradio shows it as HTML, so it is escaped."""

    def shown(*given):
        try:
            return draw(*given)
        except ValueError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    return shown


def parse_args():
    parser = Parser(description=__doc__)
    default = os.environ.get(VARIABLE) or (str(SHIPPED) if SHIPPED.is_dir() else None)
    parser.add_argument(
        "pipeline", nargs="?", default=default, help=f"folder or Hub id; default: ${VARIABLE}, or the shipped model"
    )
    parser.add_argument(
        "--text-encoder", default=os.environ.get(ENCODER_VARIABLE), metavar="NAME",
        help=f"folder or Hub id, for a pipeline that is stored without its own; default: ${ENCODER_VARIABLE}",
    )  # fmt: skip
    parser.add_argument("--host", help="0.0.0.0: for other machines too; default: this machine alone")
    parser.add_argument("--port", type=whole(1, 65535), help="default: 7860, or the next that is free")
    parser.add_argument("--max-images", type=positive, default=Limits.images, help="of one visitor's wish")
    parser.add_argument("--max-steps", type=positive, default=Limits.steps, help="of one visitor's wish")
    parser.add_argument(
        "--max-queue", type=positive, default=Limits.queue, help="visitors that wait; others are told so"
    )
    args = parser.parse_args()
    if args.pipeline is None:
        parser.error(f"name a pipeline, here or in the variable {VARIABLE}")
    return args


def main():
    args = parse_args()
    limits = Limits(images=args.max_images, steps=args.max_steps, queue=args.max_queue)
    app = make_app(Studio(args.pipeline, limits, args.text_encoder))
    app.launch(
        server_name=args.host, server_port=args.port, max_file_size=f"{limits.upload}mb", footer_links=[], share=False
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
