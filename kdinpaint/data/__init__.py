"""Photographs, masks and frozen evaluation lists. Masks are 1 = hole, images 8-bit or in [0, 1]."""

from kdinpaint.data.celeba import CelebA
from kdinpaint.data.demo_photos import DemoPhotos, demo_photos
from kdinpaint.data.images import list_images, read_image
from kdinpaint.data.irregular_masks import IrregularMasks
from kdinpaint.data.manifest import PairManifest
from kdinpaint.data.mask_files import MaskFolder
from kdinpaint.data.mask_generator import MaskGenerator
from kdinpaint.data.pair_build import common_folder
from kdinpaint.data.pair_dataset import ManifestPairs, Pair
from kdinpaint.data.pair_entry import PairEntry
from kdinpaint.data.paris import ParisStreetView
from kdinpaint.data.photos import PhotoFolder
from kdinpaint.data.places2 import Places2
from kdinpaint.data.resident import ResidentBatches, ResidentData
from kdinpaint.data.samples import TrainingSamples
from kdinpaint.data.stored_photos import StoredPhotos
from kdinpaint.data.stores import FolderStore, MemoryStore, TarStore, open_store

__all__ = [
    "CelebA",
    "DemoPhotos",
    "FolderStore",
    "IrregularMasks",
    "ManifestPairs",
    "MaskFolder",
    "MaskGenerator",
    "MemoryStore",
    "Pair",
    "PairEntry",
    "PairManifest",
    "ParisStreetView",
    "PhotoFolder",
    "Places2",
    "ResidentBatches",
    "ResidentData",
    "StoredPhotos",
    "TarStore",
    "TrainingSamples",
    "common_folder",
    "demo_photos",
    "list_images",
    "open_store",
    "read_image",
]
