"""A page on which a person drops a picture and sees what a network makes of it (extra ``demo``: Gradio)."""

from mcir.inference.demo.serve import DemoSettings, demo

__all__ = ["DemoSettings", "demo"]
