"""Data sets: the embedded glyphs, torchvision's MNIST, Fashion-MNIST and CIFAR-10, and folders of images."""

from course_lib.data.augmentation import augment
from course_lib.data.dataset import Dataset, DatasetError, Split, to_float
from course_lib.data.loading import NAMES, fetch, load_dataset

__all__ = ["NAMES", "Dataset", "DatasetError", "Split", "augment", "fetch", "load_dataset", "to_float"]
