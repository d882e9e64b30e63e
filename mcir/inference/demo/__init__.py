"""A web page on which visitors restore images with a network (extra ``demo``: Gradio)."""

from mcir.inference.demo.serve import demo

__all__ = ["demo"]
