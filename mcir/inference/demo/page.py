"""The page of the demo, of Gradio's components: what a visitor sees and presses."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from mcir.data.errors import DataError
from mcir.inference.batch.scores import Scores
from mcir.inference.demo.service import DAMAGES, PHOTOS, DemoService, Facts, Outcome, Refusal, photograph

_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_HEAD = "# Restore a picture\n\nDrop it here, press Restore, and draw the line from before to after."
_STYLE = Path(__file__).with_name("page.css")


def look() -> dict[str, Any]:
    """Return how the page looks, as Gradio's arguments of a launch; nothing of it comes from elsewhere."""
    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="lg",
        font=_FONT,
        font_mono=["ui-monospace", "monospace"],
    )
    return {"theme": theme, "css": _STYLE.read_text(encoding="utf-8")}


def page(workshop: DemoService, waiting: int) -> gr.Blocks:
    """Return the page.

    Args:
        workshop: what does the work.
        waiting: visitors that may wait; one more is told to come later.
    """
    first = workshop.names[0]
    known = workshop.facts(first)
    with gr.Blocks(title="mcir", analytics_enabled=False, fill_width=False) as blocks:
        gr.Markdown(_HEAD, elem_id="head")
        with gr.Row(elem_id="body"):
            with gr.Column(scale=2, min_width=300):
                picture = _drop("Picture", "picture", 250)
                gallery, damage = _examples(known)
                checkpoint = gr.Dropdown(
                    list(workshop.names),
                    value=first,
                    label="Network",
                    info=_told(known),
                    filterable=False,
                    elem_id="network",
                )
                ensemble = gr.Checkbox(
                    label="Mean of eight",
                    info="Turned and mirrored: a little better, eight times slower.",
                    elem_id="eight",
                )
                button = gr.Button("Restore", variant="primary", size="lg", elem_id="restore")
                with gr.Accordion("Compare with a ground truth", open=False, elem_id="compare") as compare:
                    truth = _drop("Ground truth", "truth", 180)
            with gr.Column(scale=3, min_width=300):
                slider = gr.ImageSlider(
                    label="Before and after",
                    show_label=False,
                    elem_id="slider",
                    interactive=False,
                    buttons=["fullscreen"],
                    max_height=640,
                )
                result = gr.Markdown(elem_id="result")
                metrics = gr.Markdown(elem_id="metrics")
                download = gr.DownloadButton("Download the result", visible=False, elem_id="download")

        @_telling()
        def on_restore(given: Any, name: Any, eight: Any) -> tuple[Any, ...]:
            if given is None:
                raise Refusal("Drop a picture first, or choose one of the photographs.")
            outcome = workshop.restore(_file(given), _text(name), eight is True)
            shown = (str(outcome.before), str(outcome.after))
            caption = _caption(outcome, _text(name), eight is True)
            return shown, caption, gr.DownloadButton(value=str(outcome.result), visible=True)

        def on_comparison(given: Any, made: Any, wanted: Any) -> str:
            if not (given and made and wanted):
                return ""
            try:
                return _table(workshop.measure(_file(given), _file(made), _file(wanted)))
            except Refusal as refusal:
                return f"<p>{html.escape(str(refusal))}</p>"

        def on_change() -> tuple[Any, ...]:
            return None, "", "", gr.DownloadButton(value=None, visible=False)

        @_telling()
        def on_drop(given: Any, name: Any, wanted: Any) -> tuple[Any, Any]:
            is_of_example = wanted and workshop.photo_of(_file(wanted))
            shown = given and workshop.preview(_file(given), _text(name))
            return shown, None if is_of_example else gr.skip()

        @_telling()
        def on_drop_of_truth(given: Any) -> Any:
            return given and workshop.preview(_file(given))

        @_telling()
        def on_choice(name: Any, kind: Any, given: Any) -> tuple[Any, ...]:
            chosen = workshop.facts(_text(name))
            photo = given and workshop.photo_of(_file(given))
            pair = workshop.example(photo, _text(name), _text(kind)) if photo else (gr.skip(), gr.skip())
            return gr.Dropdown(info=_told(chosen)), gr.Radio(visible=chosen.scale == 1), *pair

        @_telling()
        def on_example(name: Any, kind: Any, event: gr.SelectData) -> tuple[Any, ...]:
            photo = dict(enumerate(PHOTOS)).get(event.index, "")
            return *workshop.example(photo, _text(name), _text(kind)), gr.Accordion(open=True)

        common = {"preprocess": False, "concurrency_limit": 1, "api_visibility": "private"}
        computing = {**common, "concurrency_id": "network", "show_progress_on": slider, "scroll_to_output": True}
        looking = {**common, "concurrency_id": "page", "show_progress": "hidden"}
        comparing = {**common, "concurrency_id": "metrics", "show_progress": "hidden", "trigger_mode": "always_last"}
        clearing = {**common, "concurrency_limit": None, "show_progress": "hidden"}

        restored = button.click(on_restore, [picture, checkpoint, ensemble], [slider, result, download], **computing)
        truth.upload(lambda: "", None, metrics, **clearing)
        wished = truth.upload(on_drop_of_truth, truth, truth, **looking)
        wished.failure(lambda: None, None, truth, **looking)
        compared = [
            event(on_comparison, [picture, download, truth], metrics, **comparing)
            for event in (restored.success, wished.success)
        ]

        # A result goes with what it was made of; before all else, as what follows from an event is done in this order.
        # With a picture that is removed it is hidden by the style: Gradio may lose an upload that comes upon a removal.
        changes = [picture.upload, checkpoint.input, damage.input, ensemble.input, gallery.select]
        gr.on(changes, None, cancels=[restored, *compared])
        gr.on(changes, on_change, None, [slider, result, metrics, download], **clearing)
        dropped = picture.upload(on_drop, [picture, checkpoint, truth], [picture, truth], **looking)
        dropped.failure(lambda: None, None, picture, **looking)
        for choice in (checkpoint, damage):
            choice.input(on_choice, [checkpoint, damage, picture], [checkpoint, damage, picture, truth], **looking)
        gallery.select(on_example, [checkpoint, damage], [picture, truth, compare], **looking)
    blocks.queue(max_size=waiting, api_open=False, default_concurrency_limit=1)
    return blocks


# -- parts ------------------------------------------------------------------------------------------------------------


@contextmanager
def _telling() -> Iterator[None]:
    """Show a visitor why something is refused; whatever else goes wrong is told in the terminal alone."""
    try:
        yield
    except Refusal as refusal:
        raise gr.Error(html.escape(str(refusal)), print_exception=False) from refusal


def _drop(label: str, name: str, height: int) -> Any:
    """Return a place for a picture, which goes to the server as the file that it is."""
    return gr.Image(
        label=label,
        placeholder="Drop a picture here\nor click to choose one",
        elem_id=name,
        height=height,
        type="filepath",
        image_mode=None,
        sources=["upload"],
        buttons=["fullscreen"],
    )


def _examples(known: Facts) -> tuple[Any, Any]:
    """Return photographs to try, and what is done to them for a network that keeps the size."""
    try:
        photos = [photograph(title) for title in PHOTOS]
    except DataError:
        photos = []
    gr.Markdown("or try one of these", elem_id="or", visible=bool(photos))
    gallery = gr.Gallery(
        photos,
        show_label=False,
        elem_id="examples",
        container=False,
        columns=len(PHOTOS),
        rows=1,
        allow_preview=False,
        interactive=False,
        object_fit="cover",
        buttons=[],
        visible=bool(photos),
    )
    damage = gr.Radio(
        list(DAMAGES), value=next(iter(DAMAGES)), label="Photographs with", elem_id="damage", visible=known.scale == 1
    )
    return gallery, damage


def _told(facts: Facts) -> str:
    scale = f"enlarges ×{facts.scale}" if facts.scale > 1 else "keeps the size"
    millions = f"{facts.parameters / 1e6:.2f} M" if facts.parameters >= 1e4 else f"{facts.parameters:,}"
    return f"{facts.architecture} · {scale} · {millions} parameters"


def _caption(outcome: Outcome, name: str, ensemble: bool) -> str:
    """Return what restored a picture, its sizes, and the time it took."""
    (width, height), (wide, high) = outcome.size, outcome.restored
    grown = f" → {wide}×{high}" if outcome.size != outcome.restored else ""
    network = f"{name}, mean of eight" if ensemble else name
    return f"<p>{html.escape(network)} · {width}×{height}{grown} pixels · {outcome.seconds:.2f} s</p>"


def _table(scores: Scores) -> str:
    """Return the metrics before and after."""
    rows = (
        ("PSNR", scores.psnr_of_input, scores.psnr, "{:.2f} dB", "{:+.2f} dB"),
        ("SSIM", scores.ssim_of_input, scores.ssim, "{:.4f}", "{:+.4f}"),
    )
    table = "".join(
        f"<tr><th>{name}</th><td>{value.format(before)}</td><td>{value.format(after)}</td>"
        f"<td>{gain.format(0 if before == after else after - before)}</td></tr>"
        for name, before, after, value, gain in rows
    )
    return f"<table><tr><th></th><th>before</th><th>after</th><th>gain</th></tr>{table}</table>"


def _file(given: Any) -> str:
    """Return the path in what a page sends of a picture."""
    path = given.get("path") if isinstance(given, dict) else None
    if not isinstance(path, str):
        raise Refusal("This is no picture.")
    return path


def _text(given: Any) -> str:
    return given if isinstance(given, str) else ""
