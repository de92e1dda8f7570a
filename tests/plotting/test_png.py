import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vbp_lightning.plotting.png import compress_page, encode_png


def decode(png):
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        assert image.mode == "RGB"
        return np.asarray(image)


def pictures(seed, width, heights, levels):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, levels, (height, width, 3), dtype=np.uint8) for height in heights]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    width=st.integers(1, 40),
    heights=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    levels=st.sampled_from([1, 2, 256]),
)
def test_a_sheet_decodes_to_its_stacked_pages(seed, width, heights, levels):
    pages = pictures(seed, width, heights, levels)
    compressed = [compress_page(page) for page in pages]
    np.testing.assert_array_equal(decode(encode_png(compressed)), np.concatenate(pages))
    for page, one in zip(pages, compressed, strict=True):
        np.testing.assert_array_equal(decode(encode_png([one])), page)


def test_a_page_may_be_stacked_with_any_others():
    pages = [compress_page(page) for page in pictures(0, 50, [400, 300], 3)]
    both = decode(encode_png(pages))
    turned = decode(encode_png(pages[::-1]))
    np.testing.assert_array_equal(both, np.concatenate([turned[300:], turned[:300]]))


def test_pages_of_different_width_are_refused():
    pages = [compress_page(picture) for width in (4, 5) for picture in pictures(0, width, [3], 9)]
    with pytest.raises(ValueError, match="wide"):
        encode_png(pages)
    with pytest.raises(ValueError, match="wide"):
        encode_png([])
