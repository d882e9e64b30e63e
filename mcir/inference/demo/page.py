"""The page of the demo, built from Gradio components."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from mcir.inference.batch.scores import Scores, formatted
from mcir.inference.demo.service import DEGRADATIONS, PHOTOS, DemoService, RequestError, Restoration, photograph
from mcir.inference.restorer import Restorer

_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_HEAD = (
    "mcir\n\n# Restore an image\n\n"
    "Choose an image or an example, press Restore, and move the divider between before and after."
)
_SHOW_RESULT = """() => {
    const slider = document.querySelector("#slider"), top = slider.getBoundingClientRect().top
    if (document.querySelector("#picture img") && (top < 0 || top > innerHeight / 2))
        slider.scrollIntoView({behavior: "smooth"})
}"""
"""Script that scrolls to the result, or to the place where it appears. In a narrow window it is below the controls."""

_STYLE = Path(__file__).with_name("page.css")


def appearance() -> dict[str, Any]:
    """Return the theme and the style sheet as arguments of ``launch``; neither loads anything from other servers."""
    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="lg",
        font=_FONT,
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_text_color_subdued="*neutral_500",  # the default has too little contrast on white
        block_info_text_color="*neutral_500",
        checkbox_border_color="*neutral_400",
        checkbox_border_color_dark="*neutral_400",
        checkbox_border_radius="*radius_sm",
    )
    return {"theme": theme, "css": _STYLE.read_text(encoding="utf-8")}


class _Inputs(NamedTuple):
    """The components of the left column."""

    picture: gr.Image
    gallery: gr.Gallery
    degradation: gr.Radio
    checkpoint: gr.Dropdown
    ensemble: gr.Checkbox
    button: gr.Button
    compare: gr.Accordion
    truth: gr.Image


class _Outputs(NamedTuple):
    """The components of the right column."""

    slider: gr.ImageSlider
    result: gr.Markdown
    metrics: gr.Markdown
    download: gr.DownloadButton


def build_page(service: DemoService, queue: int, delete_cache: tuple[int, int]) -> gr.Blocks:
    """Return the page.

    Args:
        service: operations of the page.
        queue: maximum number of waiting visitors; others see an error.
        delete_cache: interval at which Gradio deletes old uploads, and their age, in seconds.
    """
    with gr.Blocks(
        title="mcir: restore an image", analytics_enabled=False, fill_width=False, delete_cache=delete_cache
    ) as blocks:
        gr.Markdown(_HEAD, elem_id="head")
        with gr.Row(elem_id="body"):
            inputs, outputs = _input_column(service), _output_column()
        _connect(inputs, outputs, _Handlers(service))
    blocks.queue(max_size=queue, api_open=False, default_concurrency_limit=1)
    return blocks


def _input_column(service: DemoService) -> _Inputs:
    first = service.names[0]
    restorer = service.restorer(first)
    with gr.Column(scale=2, min_width=300):
        picture = _upload("Image", "picture", 250)
        gallery, degradation = _examples(restorer.scale)
        checkpoint = gr.Dropdown(
            list(service.names),
            value=first,
            label="Network",
            info=_describe(restorer),
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
    return _Inputs(picture, gallery, degradation, checkpoint, ensemble, button, compare, truth)


def _output_column() -> _Outputs:
    with gr.Column(scale=3, min_width=300, elem_id="output"):
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
    return _Outputs(slider, result, metrics, download)


def _connect(inputs: _Inputs, outputs: _Outputs, handlers: _Handlers) -> None:
    """Connect the events of the components to their handlers."""
    picture, gallery, degradation, checkpoint, ensemble, button, compare, truth = inputs
    slider, result, metrics, download = outputs
    common = {"preprocess": False, "concurrency_limit": 1, "api_visibility": "private"}
    computing = {**common, "concurrency_id": "network", "show_progress_on": slider}
    previewing = {**common, "concurrency_id": "page", "show_progress": "hidden"}
    comparing = {**common, "concurrency_id": "metrics", "show_progress": "hidden", "trigger_mode": "always_last"}
    clearing = {**common, "concurrency_limit": None, "show_progress": "hidden"}

    restored = button.click(
        handlers.on_restore, [picture, checkpoint, ensemble], [slider, result, download], **computing
    )
    for event in (button.click, restored.success):
        event(None, js=_SHOW_RESULT)
    truth.upload(lambda: "", None, metrics, **clearing)
    uploaded_truth = truth.upload(handlers.on_truth, truth, truth, **previewing)
    uploaded_truth.failure(lambda: None, None, truth, **previewing)
    compared = [
        event(handlers.on_comparison, [picture, download, truth], metrics, **comparing)
        for event in (restored.success, uploaded_truth.success)
    ]

    # A change clears the result before other events. When the image is removed, the style sheet hides the result,
    # because Gradio may lose an upload that directly follows an event of the removal.
    changes = [picture.upload, checkpoint.input, degradation.input, ensemble.input, gallery.select]
    gr.on(changes, None, cancels=[restored, *compared])
    gr.on(changes, handlers.on_change, None, [slider, result, metrics, download], **clearing)
    uploaded = picture.upload(handlers.on_upload, [picture, checkpoint, truth], [picture, truth], **previewing)
    uploaded.failure(lambda: None, None, picture, **previewing)
    for choice in (checkpoint, degradation):
        choice.input(
            handlers.on_choice,
            [checkpoint, degradation, picture],
            [checkpoint, degradation, picture, truth],
            **previewing,
        )
    gallery.select(handlers.on_example, [checkpoint, degradation], [picture, truth, compare], **previewing)


@contextmanager
def _show_errors() -> Iterator[None]:
    """Show a ``RequestError`` to the visitor; other errors appear only in the terminal."""
    try:
        yield
    except RequestError as error:
        raise gr.Error(html.escape(str(error)), print_exception=False) from error


class _Handlers:
    """The handlers of the page's events. They map values of components to new values."""

    def __init__(self, service: DemoService) -> None:
        self._service = service

    @_show_errors()
    def on_restore(self, image: Any, name: Any, eight: Any) -> tuple[Any, ...]:
        if image is None:
            raise RequestError("Upload an image first, or choose one of the examples.")
        restoration = self._service.restore(_file(image), name, bool(eight))
        shown = (str(restoration.before), str(restoration.after))
        caption = _caption(restoration, name, bool(eight))
        return shown, caption, gr.DownloadButton(value=str(restoration.result), visible=True)

    def on_comparison(self, image: Any, result: Any, truth: Any) -> str:
        if not (image and result and truth):
            return ""
        try:
            return _table(self._service.measure(_file(image), _file(result), _file(truth)))
        except RequestError as error:
            return f"<p>{html.escape(str(error))}</p>"

    def on_change(self) -> tuple[Any, ...]:
        return None, "", "", gr.DownloadButton(value=None, visible=False)

    @_show_errors()
    def on_upload(self, image: Any, name: Any, truth: Any) -> tuple[Any, Any]:
        is_of_example = truth and self._service.photo_of(_file(truth))
        shown = image and self._service.preview(_file(image), name)
        return shown, None if is_of_example else gr.skip()

    @_show_errors()
    def on_truth(self, truth: Any) -> Any:
        return truth and self._service.preview(_file(truth))

    @_show_errors()
    def on_choice(self, name: Any, degradation: Any, image: Any) -> tuple[Any, ...]:
        restorer = self._service.restorer(name)
        photo = image and self._service.photo_of(_file(image))
        pair = self._service.example(photo, name, degradation) if photo else (gr.skip(), gr.skip())
        return gr.Dropdown(info=_describe(restorer)), gr.Radio(visible=restorer.scale == 1), *pair

    @_show_errors()
    def on_example(self, name: Any, degradation: Any, event: gr.SelectData) -> tuple[Any, ...]:
        photo = dict(enumerate(PHOTOS)).get(event.index, "")
        return *self._service.example(photo, name, degradation), gr.Accordion(open=True)


def _upload(label: str, name: str, height: int) -> Any:
    """Return an upload field that sends files to the server unchanged."""
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


def _examples(scale: int) -> tuple[Any, Any]:
    """Return a gallery of photographs, and a choice of their degradation."""
    gr.Markdown("or try an example", elem_id="or")
    gallery = gr.Gallery(
        [photograph(title) for title in PHOTOS],
        show_label=False,
        elem_id="examples",
        container=False,
        columns=len(PHOTOS),
        rows=1,
        allow_preview=False,
        interactive=False,
        object_fit="cover",
        buttons=[],
    )
    degradation = gr.Radio(
        list(DEGRADATIONS),
        value=next(iter(DEGRADATIONS)),
        label="Photographs with",
        elem_id="damage",
        visible=scale == 1,
    )
    return gallery, degradation


def _describe(restorer: Restorer) -> str:
    parameters = sum(parameter.numel() for parameter in restorer.network.parameters())
    scale = f"enlarges ×{restorer.scale}" if restorer.scale > 1 else "keeps the size"
    millions = f"{parameters / 1e6:.2f} M" if parameters >= 1e4 else f"{parameters:,}"
    return f"{restorer.architecture} · {scale} · {millions} parameters"


def _caption(restoration: Restoration, name: str, ensemble: bool) -> str:
    """Return the network, the sizes and the time of a restoration as HTML."""
    (width, height), (wide, high) = restoration.size, restoration.restored
    enlarged = f" → {wide}×{high}" if restoration.size != restoration.restored else ""
    network = f"{name}, mean of eight" if ensemble else name
    return f"<p>{html.escape(network)} · {width}×{height}{enlarged} pixels · {restoration.seconds:.2f} s</p>"


def _table(scores: Scores) -> str:
    """Return the metrics before and after as an HTML table."""
    cells = [f"<td>{text}</td>" for text in formatted(scores)]
    rows = f"<tr><th>PSNR</th>{''.join(cells[:3])}</tr><tr><th>SSIM</th>{''.join(cells[3:])}</tr>"
    return f"<table><tr><th></th><th>before</th><th>after</th><th>gain</th></tr>{rows}</table>"


def _file(value: Any) -> str:
    """Return the path in the value of an image field."""
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str):
        raise RequestError("Expected an image.")
    return path
