"""Small files of OpenStreetMap: XML, and the Protocolbuffer Binary Format."""

import struct


def write_osm(path, ways):
    """Writes ways as ``.osm`` (XML) or ``.osm.pbf``.

    Args:
        path: Its suffix decides.
        ways: The tags and the (longitude, latitude) places of each.
    """
    places = [place for _, line in ways for place in line]
    if path.suffix == ".pbf":
        path.write_bytes(_pbf(ways, places))
        return path
    nodes = [f'<node id="{n}" lon="{x}" lat="{y}"/>' for n, (x, y) in enumerate(places, 1)]
    lines, first = [], 1
    for number, (tags, line) in enumerate(ways, 1):
        refs = "".join(f'<nd ref="{first + n}"/>' for n in range(len(line)))
        own = "".join(f'<tag k="{key}" v="{value}"/>' for key, value in tags.items())
        lines.append(f'<way id="{number}">{refs}{own}</way>')
        first += len(line)
    path.write_text(f'<osm version="0.6">{"".join(nodes + lines)}</osm>')
    return path


def _varint(value):
    digits = []
    while value > 127:
        digits.append(value % 128 + 128)
        value //= 128
    return bytes([*digits, value])


def _signed(value):
    return _varint(2 * value if value >= 0 else -2 * value - 1)


def _field(number, content):
    """A field of bytes, or of a number that is encoded already."""
    return _varint(8 * number + 2) + _varint(len(content)) + content


def _number(number, encoded):
    return _varint(8 * number) + encoded


def _blob(kind, block):
    blob = _field(1, block)
    header = _field(1, kind) + _number(3, _varint(len(blob)))
    return struct.pack(">I", len(header)) + header + blob


def _pbf(ways, places):
    strings = [""]
    for tags, _ in ways:
        strings += [text for pair in tags.items() for text in pair]
    group = b""
    for number, (lon, lat) in enumerate(places, 1):
        place = _number(8, _signed(round(lat * 1e7))) + _number(9, _signed(round(lon * 1e7)))
        group += _field(1, _number(1, _signed(number)) + place)
    first = 1
    for number, (tags, line) in enumerate(ways, 1):
        keys = b"".join(_varint(strings.index(key)) for key in tags)
        values = b"".join(_varint(strings.index(value)) for value in tags.values())
        refs = _signed(first) + _signed(1) * (len(line) - 1)
        way = _number(1, _varint(number)) + _field(2, keys) + _field(3, values) + _field(8, refs)
        group += _field(3, way)
        first += len(line)
    table = b"".join(_field(1, text.encode()) for text in strings)
    header = b"".join(_field(4, each) for each in (b"OsmSchema-V0.6",))
    return _blob(b"OSMHeader", header) + _blob(b"OSMData", _field(1, table) + _field(2, group))
