"""What the tests ask, and in which form."""

import base64
import io

from PIL import Image

BOARD = {"desc": ["SFFF", "FFHF", "FFFF", "FHFG"]}
PLAN = "Find the shortest safe path to the gift."


def encoded(picture, kind="PNG"):
    """A picture (H, W, 3) as base64."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format=kind)
    return base64.b64encode(file.getvalue()).decode()
