"""An upstream's answer that repeats an equal `Content-Length`. Pure.

RFC 9110 8.6 lets a recipient take them for one. The parser does not, so it is given one.
"""

_NAME = b"content-length"


def final_head(data: bytes) -> bytes | None:
    """`data` from the final answer's head on, without interim answers; None: the head is not whole yet."""
    while (end := data.find(b"\r\n\r\n")) >= 0:
        if data[9:10] != b"1":  # of `HTTP/1.1 103`
            return data
        data = data[end + 4 :]
    return None


def with_one_length(data: bytes) -> bytes | None:
    """An answer with one `Content-Length`; None if it has one already, or several that differ.

    Args:
        data: begins with the answer's head, which is whole.
    """
    head, end, body = data.partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    lengths = [field for field in fields if field.partition(b":")[0].lower() == _NAME]
    values = {value.strip(b" \t") for field in lengths for value in field.partition(b":")[2].split(b",")}
    value = values.pop() if len(values) == 1 else b""
    if not value.isdigit() or lengths == [b"%b: %b" % (_NAME, value)]:
        return None
    others = [field for field in fields if field not in lengths]
    return b"\r\n".join([first, *others, b"%b: %b" % (_NAME, value)]) + end + body
