"""Text as the value of a header field: what is not visible ASCII, and `%` itself, is percent-encoded as UTF-8."""

import re
from urllib.parse import quote

_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
_PLAIN = re.compile(r"[!-$&-~]*")


def encoded(text: str) -> str:
    """The field value that means this text."""
    return text if _PLAIN.fullmatch(text) else quote(text, safe=_VISIBLE)
