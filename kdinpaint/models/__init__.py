"""Reference networks and their registry."""

from kdinpaint.models.autoencoder import AutoEncoder
from kdinpaint.models.cost import ModelCost, model_cost
from kdinpaint.models.decoder import AttentionMap
from kdinpaint.models.inpainting import InpaintingNet
from kdinpaint.models.registry import create_model, list_models
from kdinpaint.models.weights import load_model, save_model

__all__ = [
    "AttentionMap",
    "AutoEncoder",
    "InpaintingNet",
    "ModelCost",
    "create_model",
    "list_models",
    "load_model",
    "model_cost",
    "save_model",
]
