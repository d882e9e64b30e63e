"""A parser for the HTML pages of reports."""

import base64
from html.parser import HTMLParser

import cv2
import numpy as np


class Page(HTMLParser):
    """The content of a page: tags, text, table cells, images and addresses. Every opened tag must be closed."""

    void_tags = ("meta", "img", "polyline", "rect", "path", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.cells, self.pictures, self.addresses = [], [], [], [], []
        self.open = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        if tag not in self.void_tags:
            self.open.append(tag)
        self.addresses += [value for key, value in attributes if key in ("src", "href")]
        if tag == "img":
            data = base64.b64decode(values["src"].removeprefix("data:image/png;base64,"), validate=True)
            self.pictures.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1])

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)

    @property
    def text(self):
        return " ".join(self.words)
