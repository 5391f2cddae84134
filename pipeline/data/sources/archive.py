"""Images in a .zip or a .tar file, which may be compressed: in class folders, or in one place and without labels.

    photos.zip:     photos/0001.jpg             all images in one folder: no labels
    cifar.tar.gz:   train/airplane/0001.png     the classes are the first level with several folders

The files in it are not unpacked to disk. A tar file with KEY.cls files is opened as a webdataset shard.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.data.sources import Source, Spec
from pipeline.data.sources.listing import ListedImages, list_images
from pipeline.data.sources.samples import FILE_LABELS, asked_of
from pipeline.data.sources.tar_files import list_tar
from pipeline.data.sources.zip_files import list_zip

LABELS = FILE_LABELS


def open_source(spec: Spec) -> Source:
    """List the images in the archive at the path `spec.name`.

    Raises DataError for an archive that is truncated, unsafe or without images, and for content that a folder would be
    refused for; ConfigError if a root or a split is given.
    """
    spec.refuse_root()
    spec.refuse_splits(f"Give an archive that holds only the {spec.split} images.")
    path = Path(spec.name)
    is_zip = path.name.lower().endswith(".zip")
    members = list_zip(path) if is_zip else list_tar(path, scratch=spec.scratch)
    listing = list_images(path, [members], asked_of(spec))
    return ListedImages(path.name, listing)
