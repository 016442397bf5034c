"""Small trees of all published data sets in their true layout: tiny images, split files, lists."""

import io
import json
from pathlib import Path

from PIL import Image

from mmadapt.data.published.imagenet import wnids

IMAGENET = ("imagenet", "imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
SPLIT_FILES = {
    "caltech101": ("split_zhou_Caltech101.json", "101_ObjectCategories"),
    "oxford_pets": ("split_zhou_OxfordPets.json", "images"),
    "stanford_cars": ("split_zhou_StanfordCars.json", "."),
    "oxford_flowers": ("split_zhou_OxfordFlowers.json", "jpg"),
    "food101": ("split_zhou_Food101.json", "images"),
    "sun397": ("split_zhou_SUN397.json", "SUN397"),
    "dtd": ("split_zhou_DescribableTextures.json", "images"),
    "eurosat": ("split_zhou_EuroSAT.json", "2750"),
    "ucf101": ("split_zhou_UCF101.json", "UCF-101-midframes"),
}
NAMES = (*SPLIT_FILES, "fgvc_aircraft", *IMAGENET)

# class folder or file stem, class name; labels follow the list
CLASSES = {
    "caltech101": [("Faces", "face"), ("Leopards", "leopard"), ("water_lilly", "water_lilly")],
    "oxford_pets": [("Abyssinian", "abyssinian"), ("american_bulldog", "american_bulldog")],
    "stanford_cars": [("", "2000 AM General Hummer SUV"), ("", "2012 Ram C/V Cargo Van Minivan")],
    "oxford_flowers": [("", "pink primrose"), ("", "globe-flower"), ("", "ball moss")],
    "food101": [("apple_pie", "apple_pie"), ("baklava", "baklava")],
    "sun397": [("a/abbey", "abbey"), ("a/apartment_building/outdoor", "outdoor apartment_building")],
    "dtd": [("banded", "banded"), ("blotchy", "blotchy"), ("polka-dotted", "polka-dotted")],
    "eurosat": [("AnnualCrop", "Annual Crop Land"), ("Forest", "Forest")],
    "ucf101": [("Apply_Eye_Makeup", "Apply_Eye_Makeup"), ("Handstand_Pushups", "Handstand_Pushups")],
}  # fmt: skip
VARIANTS = ["707-320", "F-16A/B", "F/A-18", "Boeing 717"]
PATTERNS = {
    "stanford_cars": "cars_{part}/{n:05d}.jpg",
    "oxford_flowers": "image_{n:05d}.jpg",
    "oxford_pets": "{stem}_{n}.jpg",
    "ucf101": "{stem}/v_{stem}_g{n:02d}_c01.jpg",
}


def picture(seed, fmt="JPEG"):
    stream = io.BytesIO()
    colour = tuple((seed * step) % 256 for step in (53, 101, 197))
    Image.new("RGB", (16, 16), colour).save(stream, fmt)
    return stream.getvalue()


PICTURES = [picture(seed) for seed in range(6)]


def put(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PICTURES[seed % len(PICTURES)])


def split_rows(name, train=3, val=2, test=2):
    """The content of the split file; every image has a number of its own."""
    rows, number = {}, 0
    for part, size in (("train", train), ("val", val), ("test", test)):
        rows[part] = []
        for label, (stem, class_name) in enumerate(CLASSES[name]):
            for _ in range(size):
                number += 1
                pattern = PATTERNS.get(name, "{stem}/{stem_}_{n:04d}.jpg")
                path = pattern.format(
                    part="test" if part == "test" else "train", n=number, stem=stem, stem_=stem.split("/")[-1]
                )
                if name == "ucf101":
                    path = path.replace("v_Handstand_Pushups", "v_HandStandPushups")
                rows[part].append([path, label, class_name])
    return rows


def write_split_set(root, name, folder, images=None, rows=None):
    split, default = SPLIT_FILES[name]
    rows = rows or split_rows(name)
    home = root / folder
    home.mkdir(parents=True, exist_ok=True)
    for part in rows.values():
        for path, label, _ in part:
            put(home / (images or default) / path, seed=label)
    (home / split).write_text(json.dumps(rows, indent=4))
    return home


def write_fgvc(root, folder):
    home = root / folder
    home.mkdir(parents=True)
    (home / "variants.txt").write_text("\n".join(VARIANTS) + "\n")
    number = 1000000
    for part, size in (("train", 3), ("val", 2), ("test", 2)):
        lines = []
        for label, variant in enumerate(VARIANTS):
            for _ in range(size):
                number += 1
                put(home / "images" / f"{number}.jpg", seed=label)
                lines.append(f"{number} {variant}\n")
        (home / f"images_variant_{part}.txt").write_text("".join(lines))
    return home


def write_class_folders(folder, names, size=1, suffix=".JPEG"):
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(size):
            (folder / name / f"{name}_{i:08d}{suffix}").write_bytes(PICTURES[label % len(PICTURES)])


def write_imagenet(root, folder="imagenet", images="images", train=2):
    home = root / folder / images
    write_class_folders(home / "train", wnids(), train)
    write_class_folders(home / "val", wnids(), 1)
    return root / folder


def write_shift(root, name, folder):
    home = root / folder
    if name == "imagenetv2":
        write_class_folders(
            home / "imagenetv2-matched-frequency-format-val", map(str, range(1000)), suffix=".jpeg"
        )
    elif name == "imagenet_sketch":
        write_class_folders(home / "images", wnids())
    else:
        inner = name.replace("_", "-")
        write_class_folders(home / inner, wnids(name), suffix=".jpg")
        (home / inner / "README.txt").write_text("not a class")
    return home


def write(root: Path, name: str, folder: str) -> Path:
    """Write one data set below ``root`` in the folder of that name; shots of shifts are ImageNet's."""
    if name in SPLIT_FILES:
        return write_split_set(root, name, folder)
    if name == "fgvc_aircraft":
        return write_fgvc(root, folder)
    return write_imagenet(root, folder) if name == "imagenet" else write_shift(root, name, folder)
