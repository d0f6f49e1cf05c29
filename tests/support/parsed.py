"""HTML as text, after it was parsed as XML."""

import xml.etree.ElementTree as ET


def shown(result) -> ET.Element:
    page = result._repr_html_()
    assert "<script" not in page
    return ET.fromstring(f"<div>{page}</div>")
