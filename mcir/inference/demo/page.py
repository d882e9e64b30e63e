"""The demo's page, built from Gradio's components."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from mcir.data.errors import DataError
from mcir.inference.batch.scores import Scores
from mcir.inference.demo.service import (
    DEGRADATIONS,
    PHOTOS,
    DemoService,
    NetworkFacts,
    RequestError,
    Restoration,
    photograph,
)

_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_HEAD = "# Restore an image\n\nDrop it here, press Restore, and move the divider between before and after."
_STYLE = Path(__file__).with_name("page.css")


def appearance() -> dict[str, Any]:
    """Return theme and style as arguments of ``launch``; nothing is loaded from other servers."""
    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="lg",
        font=_FONT,
        font_mono=["ui-monospace", "monospace"],
    )
    return {"theme": theme, "css": _STYLE.read_text(encoding="utf-8")}


def build_page(service: DemoService, queue: int, delete_cache: tuple[int, int]) -> gr.Blocks:
    """Return the page.

    Args:
        service: operations behind the page.
        queue: number of visitors that may wait; further ones are asked to come back later.
        delete_cache: interval in seconds at which Gradio deletes uploads, and their age.
    """
    first = service.names[0]
    known = service.facts(first)
    with gr.Blocks(title="mcir", analytics_enabled=False, fill_width=False, delete_cache=delete_cache) as blocks:
        gr.Markdown(_HEAD, elem_id="head")
        with gr.Row(elem_id="body"):
            with gr.Column(scale=2, min_width=300):
                picture = _upload("Image", "picture", 250)
                gallery, degradation = _examples(known)
                checkpoint = gr.Dropdown(
                    list(service.names),
                    value=first,
                    label="Network",
                    info=_describe(known),
                    filterable=False,
                    elem_id="network",
                )
                ensemble = gr.Checkbox(
                    label="Mean of eight",
                    info="Flips and rotations: slightly better, eight times slower.",
                    elem_id="eight",
                )
                button = gr.Button("Restore", variant="primary", size="lg", elem_id="restore")
                with gr.Accordion("Compare with a ground truth", open=False, elem_id="compare") as compare:
                    truth = _upload("Ground truth", "truth", 180)
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

        @_show_errors()
        def on_restore(image: Any, name: Any, eight: Any) -> tuple[Any, ...]:
            if image is None:
                raise RequestError("Upload an image first, or choose one of the photographs.")
            restoration = service.restore(_file(image), _text(name), eight is True)
            shown = (str(restoration.before), str(restoration.after))
            caption = _caption(restoration, _text(name), eight is True)
            return shown, caption, gr.DownloadButton(value=str(restoration.result), visible=True)

        def on_comparison(image: Any, result: Any, truth: Any) -> str:
            if not (image and result and truth):
                return ""
            try:
                return _table(service.measure(_file(image), _file(result), _file(truth)))
            except RequestError as error:
                return f"<p>{html.escape(str(error))}</p>"

        def on_change() -> tuple[Any, ...]:
            return None, "", "", gr.DownloadButton(value=None, visible=False)

        @_show_errors()
        def on_upload(image: Any, name: Any, truth: Any) -> tuple[Any, Any]:
            is_of_example = truth and service.photo_of(_file(truth))
            shown = image and service.preview(_file(image), _text(name))
            return shown, None if is_of_example else gr.skip()

        @_show_errors()
        def on_truth(truth: Any) -> Any:
            return truth and service.preview(_file(truth))

        @_show_errors()
        def on_choice(name: Any, kind: Any, image: Any) -> tuple[Any, ...]:
            chosen = service.facts(_text(name))
            photo = image and service.photo_of(_file(image))
            pair = service.example(photo, _text(name), _text(kind)) if photo else (gr.skip(), gr.skip())
            return gr.Dropdown(info=_describe(chosen)), gr.Radio(visible=chosen.scale == 1), *pair

        @_show_errors()
        def on_example(name: Any, kind: Any, event: gr.SelectData) -> tuple[Any, ...]:
            photo = dict(enumerate(PHOTOS)).get(event.index, "")
            return *service.example(photo, _text(name), _text(kind)), gr.Accordion(open=True)

        common = {"preprocess": False, "concurrency_limit": 1, "api_visibility": "private"}
        computing = {**common, "concurrency_id": "network", "show_progress_on": slider, "scroll_to_output": True}
        previewing = {**common, "concurrency_id": "page", "show_progress": "hidden"}
        comparing = {**common, "concurrency_id": "metrics", "show_progress": "hidden", "trigger_mode": "always_last"}
        clearing = {**common, "concurrency_limit": None, "show_progress": "hidden"}

        restored = button.click(on_restore, [picture, checkpoint, ensemble], [slider, result, download], **computing)
        truth.upload(lambda: "", None, metrics, **clearing)
        uploaded_truth = truth.upload(on_truth, truth, truth, **previewing)
        uploaded_truth.failure(lambda: None, None, truth, **previewing)
        compared = [
            event(on_comparison, [picture, download, truth], metrics, **comparing)
            for event in (restored.success, uploaded_truth.success)
        ]

        # A change removes the result, before any other reaction. If the image itself is removed, the style sheet hides
        # the result: Gradio may lose an upload that directly follows a removal.
        changes = [picture.upload, checkpoint.input, degradation.input, ensemble.input, gallery.select]
        gr.on(changes, None, cancels=[restored, *compared])
        gr.on(changes, on_change, None, [slider, result, metrics, download], **clearing)
        uploaded = picture.upload(on_upload, [picture, checkpoint, truth], [picture, truth], **previewing)
        uploaded.failure(lambda: None, None, picture, **previewing)
        for choice in (checkpoint, degradation):
            choice.input(
                on_choice, [checkpoint, degradation, picture], [checkpoint, degradation, picture, truth], **previewing
            )
        gallery.select(on_example, [checkpoint, degradation], [picture, truth, compare], **previewing)
    blocks.queue(max_size=queue, api_open=False, default_concurrency_limit=1)
    return blocks


# -- parts ------------------------------------------------------------------------------------------------------------


@contextmanager
def _show_errors() -> Iterator[None]:
    """Show a RequestError to the visitor; other errors appear in the terminal only."""
    try:
        yield
    except RequestError as error:
        raise gr.Error(html.escape(str(error)), print_exception=False) from error


def _upload(label: str, name: str, height: int) -> Any:
    """Return an upload field; the file is sent to the server unchanged."""
    return gr.Image(
        label=label,
        placeholder="Drop an image here\nor click to choose one",
        elem_id=name,
        height=height,
        type="filepath",
        image_mode=None,
        sources=["upload"],
        buttons=["fullscreen"],
    )


def _examples(known: NetworkFacts) -> tuple[Any, Any]:
    """Return a gallery of photographs, and the choice of their degradation."""
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
    degradation = gr.Radio(
        list(DEGRADATIONS),
        value=next(iter(DEGRADATIONS)),
        label="Photographs with",
        elem_id="damage",
        visible=known.scale == 1,
    )
    return gallery, degradation


def _describe(facts: NetworkFacts) -> str:
    scale = f"enlarges ×{facts.scale}" if facts.scale > 1 else "keeps the size"
    millions = f"{facts.parameters / 1e6:.2f} M" if facts.parameters >= 1e4 else f"{facts.parameters:,}"
    return f"{facts.architecture} · {scale} · {millions} parameters"


def _caption(restoration: Restoration, name: str, ensemble: bool) -> str:
    """Return network, sizes and time of a restoration."""
    (width, height), (wide, high) = restoration.size, restoration.restored
    enlarged = f" → {wide}×{high}" if restoration.size != restoration.restored else ""
    network = f"{name}, mean of eight" if ensemble else name
    return f"<p>{html.escape(network)} · {width}×{height}{enlarged} pixels · {restoration.seconds:.2f} s</p>"


def _table(scores: Scores) -> str:
    """Return the metrics before and after as a table."""
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


def _file(value: Any) -> str:
    """Return the path in an image field of the page."""
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str):
        raise RequestError("Expected an image.")
    return path


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
