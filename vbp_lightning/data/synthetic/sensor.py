"""From reflectance to the image of an aerial camera, different for every scene."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from vbp_lightning.data.synthetic.noise import smooth_noise
from vbp_lightning.data.synthetic.painting import colour
from vbp_lightning.data.synthetic.shapes import Array, Grid


def expose(rgb: Array, grid: Grid, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Applies haze, colour cast, gain, contrast, blur, noise and quantisation to eight bits.

    Args:
        rgb: ``(size, size, 3)`` reflectance, about 0 to 1.
        grid: The scene.
        rng: Random generator.

    Returns:
        ``(3, size, size)`` uint8.
    """
    cast = np.exp(rng.normal(0, 0.03, 3)).astype(np.float32)
    gain = np.float32(np.exp(rng.normal(0.08, 0.11)))
    image = rgb * (cast * gain)
    # Haze, uneven over the scene, adds scattered light.
    veil = float(rng.uniform(0.0, 0.14)) * (1 + 0.3 * smooth_noise(rng, grid, 250.0))
    veil = np.clip(veil, 0, 0.3).astype(np.float32)[..., None]
    image = image * (1 - veil) + veil * colour(0.72, 0.76, 0.82)
    image = np.clip(image, 0, 1) ** np.float32(rng.uniform(0.85, 1.15))
    blur = float(rng.uniform(0.3, 0.6))
    image = ndimage.gaussian_filter(image, (blur, blur, 0))
    # Shot noise grows with the light; the read noise does not.
    level = np.float32(rng.uniform(0.004, 0.012))
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image = image + level * np.sqrt(0.3 + image) * noise
    counts = np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(counts.transpose(2, 0, 1))
