"""What stands in a page of a report."""

import base64
import json
from html.parser import HTMLParser

import numpy as np


class Page(HTMLParser):
    """The texts of a page's elements, and what its script is given."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.scripts, self.attributes = [], [], [], []
        self._open, self._cell = None, None
        self.feed(text)
        self.charts = json.loads(self.scripts[0])["charts"]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag == "script":
            self._open = "script"
            self.scripts.append("")
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._open = "cell"
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th", "script"):
            self._open = None

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open == "cell":
            self.rows[-1][-1] += data


def numbers(typed):
    return np.frombuffer(base64.b64decode(typed["bdata"]), typed["dtype"]).tolist()
