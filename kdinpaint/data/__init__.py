"""Photographs, masks and frozen evaluation lists. Masks are 1 = hole, images 8-bit or in [0, 1]."""

from kdinpaint.data.demo_photos import DemoPhotos, demo_photos
from kdinpaint.data.images import list_images, read_image
from kdinpaint.data.manifest import PairManifest
from kdinpaint.data.mask_files import MaskFolder
from kdinpaint.data.mask_generator import MaskGenerator
from kdinpaint.data.pair_build import common_folder
from kdinpaint.data.pair_dataset import ManifestPairs, Pair
from kdinpaint.data.pair_entry import PairEntry
from kdinpaint.data.photos import PhotoFolder
from kdinpaint.data.resident import ResidentBatches, ResidentData
from kdinpaint.data.samples import TrainingSamples

__all__ = [
    "DemoPhotos",
    "ManifestPairs",
    "MaskFolder",
    "MaskGenerator",
    "Pair",
    "PairEntry",
    "PairManifest",
    "PhotoFolder",
    "ResidentBatches",
    "ResidentData",
    "TrainingSamples",
    "common_folder",
    "demo_photos",
    "list_images",
    "read_image",
]
