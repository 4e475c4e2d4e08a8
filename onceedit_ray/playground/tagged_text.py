"""HTML elements by their tag: text, which is never interpreted as HTML, and sections with a title."""

from __future__ import annotations

from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement


class TaggedText(TextElement):
    """Text in an element named `tag`, with CSS `classes`; other keywords are the element's attributes."""

    def __init__(self, tag: str, text: str = "", classes: str = "", **attributes: object) -> None:
        super().__init__(tag=tag, text=text)
        self.classes(classes)
        self.props.update({name.replace("_", "-"): value for name, value in attributes.items()})

    def say(self, text: str) -> None:
        """Show `text`; hide the element if it is empty."""
        self.set_text(text)
        self.set_visibility(bool(text))

    def become(self, *classes: str, among: str) -> None:
        """Set `classes`, and remove the other classes of those in `among`."""
        self.classes(remove=among, add=" ".join(classes))


class Section(Element):
    """A section labelled by its title. html_id: id of the title. level: of its heading."""

    def __init__(self, html_id: str, title: str, classes: str = "", level: int = 2) -> None:
        super().__init__("section")
        self.classes(classes)
        self.props["aria-labelledby"] = html_id
        with self:
            TaggedText(f"h{level}", title, id=html_id)
