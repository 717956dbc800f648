"""Use a trained model on photos of any size and kind."""

from kdinpaint.inference.inpainter import Inpainter

__all__ = ["Inpainter"]
