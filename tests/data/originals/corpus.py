"""Tar files as other programs write them: what each holds, or why it is refused."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

Members = list[tuple[str, bytes]]
FOLDER, LINK, HARD_LINK, PIPE, SPARSE, CONTIGUOUS = (
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.GNUTYPE_SPARSE,
    tarfile.CONTTYPE,
)


@cache
def picture(number: int, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A small image of random pixels; its size depends on the number."""
    height, width = 5 + number % 7, 4 + number % 5
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 4), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert(mode).save(stream, kind)
    return stream.getvalue()


@cache
def photo(number: int, **options: Any) -> bytes:
    """A smooth JPEG that is many times as large as the others."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    size = (97 + 41 * (number % 3), 150 - 37 * (number % 2))
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", **options)
    return stream.getvalue()


def pack(members: Members, kind: int = tarfile.GNU_FORMAT, **types: bytes) -> bytes:
    """A tar file of these members; `types` are those of the members with such a name, the others are plain files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type = types.get(name.replace(".", "_"), tarfile.REGTYPE)
            info.size = len(content) if info.isreg() else 0
            info.linkname = content.decode() if info.issym() or info.islnk() else ""
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return stream.getvalue()


@dataclass(frozen=True)
class Tar:
    """A tar file, how it is indexed, and the message with which it is refused, if it is."""

    content: bytes
    labels: str = "auto"
    image: str | None = None
    refused: str | None = None
    bad: int = 0
    """How many of its images cannot be used"""


KINDS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP"}


def made(text: str) -> Members:
    """The members with these names, each with the content after a `=`, or a picture of the kind that its name says."""
    found: Members = []
    for number, word in enumerate(text.split()):
        name, has_content, content = word.partition("=")
        kind = KINDS.get(name.rpartition(".")[2].lower(), "")
        found.append((name, content.encode() if has_content or not kind else picture(number, kind)))
    return found


def pairs(*keys: str) -> Members:
    """KEY.jpg and KEY.cls for each key."""
    images = [(f"{key}.jpg", picture(n)) for n, key in enumerate(keys)]
    labels = [(f"{key}.cls", str(n % 3).encode()) for n, key in enumerate(keys)]
    return [member for pair in zip(images, labels, strict=True) for member in pair]


def img2dataset() -> Members:
    """As img2dataset writes them; of images that could not be downloaded there is only the .json."""
    found: Members = []
    for n in range(4):
        key = f"{n:05d}{n:04d}"
        about = {"url": f"http://x/{n}", "caption": f"a cat {n}", "status": "success", "label": n % 2}
        found += [] if n == 2 else [(f"{key}.jpg", picture(n))]
        found += [(f"{key}.json", json.dumps(about).encode()), (f"{key}.txt", f"a cat {n}".encode())]
    return found


def beside(folder: str) -> Members:
    """Members with those that macOS writes beside them."""
    both = [
        ((f"{folder}._{name}", b"\0\5\x16\7"), (folder + name, content)) for name, content in pairs("a", "b")
    ]
    return [member for pair in both for member in pair]


FOLDERS = made("./ ./cat ./cat/1.jpg ./cat/2.png ./dog ./dog/1.webp")
LONG = "/".join(["a long folder name" * 3] * 5) + "/" + "x" * 120
LETTERS = pairs("Größe/Bär", "日本/猫")
MODES = ("L", "LA", "P", "RGBA", "1", "RGB")
WHOLE = pack(pairs("a", "b"))
CUT, TWICE = "is not a complete tar file", "comes twice in one sample"

TARS: dict[str, Tar] = {
    # What the usual programs write
    "img2dataset": Tar(pack(img2dataset())),
    "img2dataset, labels of a key": Tar(pack(img2dataset()), labels="json:label"),
    "img2dataset, labels of a text": Tar(pack(img2dataset()), labels="txt"),
    "timm": Tar(pack(pairs("n01440764_10026", "n01440764_10027", "n01443537_1"))),
    "labels first": Tar(pack(made("a.cls=1 a.json={} a.png b.cls=0 b.json={} b.png"), tarfile.USTAR_FORMAT)),
    "tar c .": Tar(pack([(f"./{name}", content) for name, content in pairs("a", "b")])),
    "tar c ., folders": Tar(
        pack(FOLDERS, tarfile.GNU_FORMAT, **dict.fromkeys(("_/", "_/cat", "_/dog"), FOLDER))
    ),
    "tar c, folders": Tar(pack([(n[2:], c) for n, c in FOLDERS[1:]], cat=FOLDER, dog=FOLDER)),
    "names that lead up": Tar(pack([(f"../{name}", content) for name, content in pairs("a", "b")])),
    "absolute names": Tar(pack([(f"/data/{name}", content) for name, content in pairs("a", "b")])),
    "GNU long names": Tar(pack(pairs(LONG + "1", LONG + "2"), tarfile.GNU_FORMAT)),
    "pax long names": Tar(pack(pairs(LONG + "1", LONG + "2"), tarfile.PAX_FORMAT)),
    "ustar, long names": Tar(pack(pairs("f" * 90 + "/" + "x" * 60), tarfile.USTAR_FORMAT)),
    "pax, other letters": Tar(pack(LETTERS, tarfile.PAX_FORMAT)),
    "GNU, other letters": Tar(pack(LETTERS)),
    # Endings, dots and keys
    "upper case": Tar(pack(made("A.JPG A.CLS=2 B.Png B.cls=0"))),
    "jpeg and jpg": Tar(pack(made("a.jpeg a.cls=0 b.jpg b.cls=1"))),
    "dots in folders": Tar(pack(pairs("v1.0/a", "v1.0/b.c/d"))),
    "dots after keys": Tar(pack(made("a.v2.png a.cls=1 b.x.y.jpg"))),
    "names like keys": Tar(pack(made("a.__key__x=z a.jpg a.cls=1 __key__.jpg"))),
    "remarks": Tar(pack(made("__meta__=x __index__/a.jpg a.jpg a.cls=0"))),
    "no endings": Tar(pack(made("README=hello a.jpg a.cls=1 LICENSE= b.jpg b.cls=0"))),
    "numbers as keys": Tar(pack(pairs("0", "00", "000"))),
    "spaces and signs": Tar(pack(pairs("a b", "c'd", "e$(touch x)f", 'g"h', "i;j", "-rf"))),
    "control characters": Tar(pack(pairs("a\x1b[31m", "d\te"))),
    "no UTF-8": Tar(pack(pairs("\udcff\udcfe", "a\udce9"))),
    # Samples that are not neighbours, or not whole
    "the same key again": Tar(pack(made("a.jpg a.cls=0 b.jpg b.cls=1 a.jpg a.cls=2"))),
    "images without labels": Tar(pack(made("a.jpg a.cls=1 b.jpg c.png"))),
    "no labels at all": Tar(pack(made("a.jpg b.jpg"))),
    "labels without images": Tar(pack(made("a.jpg a.cls=1 lost.cls=1 b.jpg b.cls=0"))),
    "other fields": Tar(pack(made("a.jpg a.mask.npy=x a.txt=y a.cls=1"))),
    "a chosen image": Tar(pack(made("a.png a.mask.png b.png b.mask.png c.png")), image="mask.png"),
    "texts of some": Tar(pack(made("a.jpg a.txt=cat b.jpg")), labels="txt"),
    # Labels
    "words": Tar(pack([*made("a.jpg b.jpg b.cls=7 c.jpg"), ("c.cls", "Bär\n".encode())]), labels="cls"),
    "spaces around": Tar(
        pack([*made("a.jpg"), ("a.cls", b" 12 \n"), *made("b.jpg"), ("b.cls", b"\xef\xbb\xbf3")])
    ),
    "keys in keys": Tar(
        pack(made('a.jpg a.json={"m":{"k":"x"}} b.jpg b.json={"m":{"k":7}}')), labels="json:m.k"
    ),
    "not wanted": Tar(pack(pairs("a", "b")), labels="none"),
    # Images
    "modes": Tar(pack([(f"{mode}.png", picture(n, "PNG", mode)) for n, mode in enumerate(MODES)])),
    "CMYK and grey": Tar(pack([("c.jpg", picture(1, "JPEG", "CMYK")), ("g.jpg", picture(2, "JPEG", "L"))])),
    "other kinds than named": Tar(pack([("a.jpg", picture(1, "PNG")), ("b.png", picture(2, "WEBP"))])),
    "photos": Tar(pack([(f"{n}.jpg", photo(n)) for n in range(6)])),
    "photos, progressive and with all colours": Tar(
        pack([("a.jpg", photo(0, progressive=True)), ("b.jpg", photo(1, subsampling=0))])
    ),
    "more after the image": Tar(pack([("a.jpg", picture(1) + b"\xff\xdamotion photo" * 50)])),
    "kinds that are not read": Tar(pack(made("a.jpg a.cls=0 b.gif c.bmp"))),
    # What macOS adds, and what is no file
    "macOS": Tar(pack(beside(""))),
    "macOS, in folders": Tar(pack(beside("d/"))),
    "hidden folders": Tar(pack(made(".git/x.jpg __MACOSX/a.jpg=x a.jpg a.cls=0"))),
    "links": Tar(pack(made("b.jpg=/etc/passwd a.jpg a.cls=1 c.jpg=a.jpg"), b_jpg=LINK, c_jpg=HARD_LINK)),
    "pipes": Tar(pack(made("p.jpg= a.jpg a.cls=1"), p_jpg=PIPE)),
    "pickles": Tar(pack(made("a.jpg a.cls=1 a.pyd=x a.pickle=x a.pth=x"))),
    # Images that cannot be used, which are left out if that is wanted
    "empty": Tar(pack(made("a.jpg= b.jpg b.cls=1")), bad=1),
    "cut images": Tar(
        pack([("a.jpg", picture(1)[:-30]), ("b.png", picture(2, "PNG")[:-20]), *pairs("d")]), bad=2
    ),
    "web pages": Tar(pack(made("a.jpg=<html> b.jpg b.cls=1")), bad=1),
    "animations as JPEG": Tar(pack([("a.jpg", picture(1, "GIF")), *pairs("d")]), bad=1),
    # Refused
    "two images": Tar(pack(made("a.jpg a.mask.png")), refused="has 2 images .* --images jpg"),
    "a member twice": Tar(pack(made("a.jpg a.jpg")), refused=TWICE),
    "a member named like ours": Tar(pack(made("a.jpg a.__key__=x")), refused=TWICE),
    "sorted by kind": Tar(pack(made("a.jpg b.jpg a.cls=0 b.cls=1")), refused="do not follow each other"),
    "words, not numbers": Tar(pack(made("a.jpg a.cls=cat")), refused="a label must be a whole number"),
    "bytes": Tar(
        pack([*made("a.jpg"), ("a.cls", b"\xff")]), labels="cls", refused="a whole number or one line"
    ),
    "a missing key": Tar(pack(made("a.jpg a.json={}")), labels="json:label", refused="has no key label"),
    "cut in a member": Tar(WHOLE[:700], refused=CUT),
    "cut between members": Tar(WHOLE[: 2 * 1024 + 512], refused=CUT),
    "no end mark": Tar(WHOLE[: 4 * 1024 + 512], refused=CUT),
    "joined": Tar(WHOLE + pack(pairs("c")), refused="more data after its end mark"),
    "compressed": Tar(gzip.compress(WHOLE), refused="is compressed"),
    "a zip file": Tar(b"PK\3\4" + bytes(1020), refused=CUT),
    "a web page": Tar(b"<!DOCTYPE html>" + b" " * 2000, refused=CUT),
    "sparse": Tar(pack(made("s.jpg= a.jpg a.cls=1"), s_jpg=SPARSE), refused="sparse"),
    "contiguous": Tar(pack(made("s.jpg a.jpg"), s_jpg=CONTIGUOUS), refused="sparse"),
    "nothing": Tar(pack([]), refused="hold no images"),
    "no images": Tar(pack(made("a.txt=x a.json={}")), refused="hold no images"),
}
