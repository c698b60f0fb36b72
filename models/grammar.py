"""The frozen scene grammar: what a clip may contain, and the sentence that says so.

A scene is a row of small integers (what the prompt can say) and floats (what it leaves open). Batches of scenes are
dicts of CPU tensors, one entry per field, first dimension B. The grammar is documented in docs/model.md; do not
change it without retraining.
"""

import torch

SHAPES = ("ball", "square", "triangle", "star", "ring")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
SIZES = ("small", "large")
MOTIONS = ("standing still", "moving left", "moving right", "moving up", "moving down", "bouncing")
TEXTURES = ("plain", "striped", "checkered", "dotted")
GROUNDS = ("gray", "brown", "navy", "olive", "maroon")
CAMERAS = ("the camera stands still", "the camera pans left", "the camera pans right")
PLACES = ("over a {} floor", "in front of a {} wall", "on a {} background")

COLOUR_RGB = (
    (0.93, 0.13, 0.13),
    (1.00, 0.55, 0.05),
    (0.98, 0.92, 0.15),
    (0.15, 0.80, 0.20),
    (0.15, 0.88, 0.92),
    (0.20, 0.35, 1.00),
    (0.72, 0.25, 0.90),
    (0.97, 0.97, 0.97),
)
GROUND_RGB = (
    (0.48, 0.48, 0.48),
    (0.48, 0.32, 0.18),
    (0.14, 0.20, 0.46),
    (0.36, 0.40, 0.12),
    (0.46, 0.12, 0.22),
)

# Never drawn for training; judged separately. (shape, colour) of the main object and (texture, ground).
HELD_OUT_OBJECTS = (("star", "red"), ("ring", "green"), ("triangle", "blue"), ("square", "purple"), ("ball", "cyan"))
HELD_OUT_GROUNDS = (("striped", "olive"), ("dotted", "maroon"))

FPS = 16
RADIUS = {"small": (0.13, 0.155), "large": (0.22, 0.25)}  # in units of min(height, width)

# What a prompt may say. -1 in a field that may be left out means "not said".
SAID = ("shape", "colour", "size", "motion", "shape2", "colour2", "motion2", "texture", "ground", "camera", "place")


def held_out(scene):
    """Boolean [B]: does the scene use a held-out combination?"""
    bad = torch.zeros_like(scene["shape"], dtype=torch.bool)
    for shape, colour in HELD_OUT_OBJECTS:
        bad |= (scene["shape"] == SHAPES.index(shape)) & (scene["colour"] == COLOURS.index(colour))
    for texture, ground in HELD_OUT_GROUNDS:
        bad |= (scene["texture"] == TEXTURES.index(texture)) & (scene["ground"] == GROUNDS.index(ground))
    return bad


def _draw(n, generator):
    def integer(high):
        return torch.randint(high, (n,), generator=generator)

    def chance(p):
        return torch.rand(n, generator=generator) < p

    def uniform(low, high):
        return torch.rand(n, generator=generator) * (high - low) + low

    two = chance(0.35)
    scene = dict(
        shape=integer(len(SHAPES)),
        colour=integer(len(COLOURS)),
        motion=integer(len(MOTIONS)),
        texture=integer(len(TEXTURES)),
        ground=integer(len(GROUNDS)),
        place=integer(len(PLACES)),
    )
    # With two objects the main one is large and in front, the other small and behind it.
    scene["size"] = torch.where(two, 1, integer(2))
    scene["shape2"] = torch.where(two, integer(len(SHAPES)), -1)
    other = (scene["colour"] + 1 + integer(len(COLOURS) - 1)) % len(COLOURS)
    scene["colour2"] = torch.where(two, other, -1)
    scene["motion2"] = torch.where(two, integer(len(MOTIONS)), -1)
    # A pan shows only against a texture.
    camera = torch.where(chance(0.5), 0, 1 + integer(2))
    scene["camera"] = torch.where(scene["texture"] == 0, 0, camera)
    # Left out of the sentence, though drawn: some sizes, ground colours, cameras that stand still.
    scene["say_size"] = ~chance(0.1)
    scene["say_ground"] = ~chance(0.15)
    scene["say_camera"] = (scene["camera"] > 0) | chance(0.2)
    small, large = RADIUS["small"], RADIUS["large"]
    scene["radius"] = torch.where(scene["size"] == 1, uniform(*large), uniform(*small))
    scene["radius2"] = uniform(*small)
    for k in ("", "2"):
        scene["x" + k] = uniform(-1, 1)  # place left open: side to side, up and down, phase of the bounce
        scene["y" + k] = uniform(-1, 1)
        scene["phase" + k] = uniform(0, 1)
        scene["speed" + k] = uniform(0.9, 1.1)
    scene["ground_x"] = uniform(0, 1)
    scene["ground_y"] = uniform(0, 1)
    return scene


def sample(n, generator, which="training"):
    """n scenes; `which` is "training" (no held-out combination), "held-out" (only those) or "all"."""
    parts, count = [], 0
    while count < n:
        scene = _draw(max(32, n - count) * (4 if which == "held-out" else 1), generator)
        bad = held_out(scene)
        keep = {"training": ~bad, "held-out": bad, "all": torch.ones_like(bad)}[which]
        parts.append({k: v[keep] for k, v in scene.items()})
        count += int(keep.sum())
    return {k: torch.cat([p[k] for p in parts])[:n] for k in parts[0]}


def rows(scene):
    """The batch as a list of plain dicts."""
    names = list(scene)
    columns = [scene[k].tolist() for k in names]
    return [dict(zip(names, values)) for values in zip(*columns)]


def sentence(row):
    """The prompt of one scene (a dict of numbers)."""
    size = SIZES[row["size"]] + " " if row["say_size"] else ""
    colour = COLOURS[row["colour"]]
    article = "a" if size or colour != "orange" else "an"
    text = f"{article} {size}{colour} {SHAPES[row['shape']]} {MOTIONS[row['motion']]}"
    if row["shape2"] >= 0:
        text += f" and a small {COLOURS[row['colour2']]} {SHAPES[row['shape2']]} {MOTIONS[row['motion2']]}"
    ground = (GROUNDS[row["ground"]] + " " if row["say_ground"] else "") + TEXTURES[row["texture"]]
    place = PLACES[row["place"]].format(ground)
    if ground.startswith("olive"):
        place = place.replace(" a olive", " an olive")
    text += " " + place
    if row["say_camera"]:
        text += ", " + CAMERAS[row["camera"]]
    return text


def sentences(scene):
    """Prompts of a batch of scenes."""
    return [sentence(row) for row in rows(scene)]


def parse(text):
    """What a prompt of the grammar says: a dict over SAID, -1 where it says nothing. ValueError if not of the grammar."""
    said = dict.fromkeys(SAID, -1)
    head, _, camera = text.partition(", ")
    if camera:
        said["camera"] = CAMERAS.index(camera)
    for index, place in enumerate(PLACES):
        lead, tail = place.split(" a {} ")
        for article in (" a ", " an "):
            left, found, right = head.rpartition(" " + lead + article)
            if found and right.endswith(" " + tail):
                said["place"] = index
                objects, ground = left, right[: -len(tail) - 1].split()
    if said["place"] < 0:
        raise ValueError(f"not a sentence of the grammar: {text!r}")
    said["texture"] = TEXTURES.index(ground[-1])
    if len(ground) == 2:
        said["ground"] = GROUNDS.index(ground[0])
    for suffix, part in zip(("", "2"), objects.split(" and ")):
        words = part.split()[1:]
        if words[0] in SIZES:
            size = SIZES.index(words.pop(0))
            if not suffix:
                said["size"] = size
        said["colour" + suffix] = COLOURS.index(words[0])
        said["shape" + suffix] = SHAPES.index(words[1])
        said["motion" + suffix] = MOTIONS.index(" ".join(words[2:]))
    return said


def words():
    """Every word of the grammar, sorted."""
    found = {"a", "an", "and"}
    for phrases in (SHAPES, COLOURS, SIZES, MOTIONS, TEXTURES, GROUNDS, CAMERAS, PLACES):
        for phrase in phrases:
            found.update(phrase.replace("{}", "").split())
    return sorted(found)
