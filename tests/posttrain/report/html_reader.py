"""Reads a page back the way a browser would, with the standard library's parser."""

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "br", "img", "link", "input", "hr", "path", "use", "rect", "circle"}


class Page(HTMLParser):
    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.open, self.texts, self.values = [], [], {}, {}
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        for identity in self.open:
            if tag == "data" and identity:
                self.values.setdefault(identity, []).append(float(attributes["value"]))
        if tag not in VOID:
            self.open.append(attributes.get("id") or self._of_class(attributes))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID and self.open:
            self.open.pop()

    def handle_data(self, data):
        for identity in self.open:
            if identity:
                self.texts[identity] = self.texts.get(identity, "") + data

    @staticmethod
    def _of_class(attributes):
        names = (attributes.get("class") or "").split()
        return f"cell {names[1]}" if names[:1] == ["cell"] else None
