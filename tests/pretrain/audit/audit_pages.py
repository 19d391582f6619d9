"""A reader of the auditor's pages."""

from html.parser import HTMLParser


class Tags(HTMLParser):
    """Counts tags and holds them to be balanced."""

    EMPTY = ("meta", "img", "br")

    def __init__(self, text: str):
        super().__init__()
        self.seen, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.seen if name == tag]
