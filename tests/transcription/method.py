"""docs/method.md in NumPy: the rules as they are written, one function per rule, nothing from the library.

Scores are computed in float64 and then rounded to float32, which the selections read. Where a score lies within NEAR
of what decides, one computed in float32 may decide differently: masks come with a second array that says where.
"""
import dataclasses
import math

import numpy as np

NEAR = 1e-4
LOG2_E = math.log2(math.e)


@dataclasses.dataclass
class Sequence:
    """Words: text prefix, video, text suffix; each may end in padding."""

    frames: int
    height: int
    width: int
    prefix: int = 0
    prefix_valid: int = 0
    video_padding: int = 0
    suffix: int = 0
    suffix_valid: int = 0

    def __post_init__(self):
        self.video = self.frames * self.height * self.width
        suffix_start = self.prefix + self.video + self.video_padding
        self.length = suffix_start + self.suffix
        token = np.arange(self.length)
        self.is_video = (token >= self.prefix) & (token < self.prefix + self.video)
        in_suffix = (token >= suffix_start) & (token < suffix_start + self.suffix_valid)
        self.is_text = (token < self.prefix_valid) | in_suffix
        self.valid = self.is_video | self.is_text


@dataclasses.dataclass
class Policy:
    """The settings that the rules below read; None or 0 where a preset has none."""

    block_queries: int
    tile_keys: int
    select: str
    score: str = None
    query_pool: int = None
    key_pool: int = None
    order: str = "raster"
    density: float = None
    tau: float = None
    threshold: float = None
    gate_queries: float = 0
    gate_keys: float = 0
    neighbours: int = 0
    score_group: int = 64
    summary_group: int = 0
    zero_pad: bool = False
    full_covariance: bool = False
    window: tuple = None
    band_width: float = None


class Cut:
    """Words: blocks of queries and tiles of keys, cut from token 0 across segment borders."""

    def __init__(self, policy, sequence):
        self.blocks = parts(0, sequence.length, policy.block_queries)
        self.tiles = parts(0, sequence.length, policy.tile_keys)
        self.block_valid = np.array([sequence.valid[block].sum() for block in self.blocks])
        self.block_text = np.array([sequence.is_text[block].any() for block in self.blocks])
        self.tile_valid = np.array([sequence.valid[tile].sum() for tile in self.tiles])
        self.tile_text = np.array([sequence.is_text[tile].any() for tile in self.tiles])
        self.live = self.tile_valid > 0
        self.open = (self.block_valid > 0) & ~self.block_text

    def nothing_kept(self):
        return np.zeros((len(self.blocks), len(self.tiles)), bool)


def parts(start, end, size):
    return [slice(at, min(at + size, end)) for at in range(start, end, size)]


def softmax(logits):
    highest = logits.max(-1, keepdims=True)
    exponentials = np.exp(logits - np.where(np.isfinite(highest), highest, 0))
    return exponentials / exponentials.sum(-1, keepdims=True)


# ---- Order ----


def order(kind, frames, height, width):
    """The raster index of the i-th token."""
    index = np.arange(frames * height * width)
    t, h, w = index // (height * width), index // width % height, index % width
    if kind == "raster":
        return index
    if kind == "boxes":
        return np.lexsort((w, h, t, w // 4, h // 4, t // 4))
    if kind == "morton":
        axes = list(enumerate((w, h, t)))
        code = sum(((axis >> bit & 1) << (3 * bit + place)) for bit in range(12) for place, axis in axes)
        return np.argsort(code, kind="stable")
    if kind == "hilbert_clipped":
        bits = max(1, math.ceil(math.log2(max(frames, height, width))))
        return np.array(sorted(index, key=lambda i: skilling_index([w[i], h[i], t[i]], bits)))
    return np.array([(z * height + y) * width + x for x, y, z in hilbert(frames, height, width)])


def skilling_index(place, bits):
    """Skilling's index of a cell in the cube of 2^bits cells: undo the curve's turns, then decode the Gray code."""
    place = [int(x) for x in place]
    bit = 1 << (bits - 1)
    while bit > 1:
        below = bit - 1
        for axis in range(3):
            if place[axis] & bit:
                place[0] ^= below
            else:
                swap = (place[0] ^ place[axis]) & below
                place[0] ^= swap
                place[axis] ^= swap
        bit >>= 1
    place[1] ^= place[0]
    place[2] ^= place[1]
    flips, bit = 0, 1 << (bits - 1)
    while bit > 1:
        if place[2] & bit:
            flips ^= bit - 1
        bit >>= 1
    index = 0
    for level in reversed(range(bits)):
        for axis in range(3):
            index = index << 1 | ((place[axis] ^ flips) >> level & 1)
    return index


def hilbert(frames, height, width):
    """Cells (x, y, z) of the curve through the whole grid: the longest edge first, the others in the order w, h, t."""
    edges = [np.array(e) for e in ((width, 0, 0), (0, height, 0), (0, 0, frames))]
    lengths = [width, height, frames]
    first = lengths.index(max(lengths))
    others = [axis for axis in range(3) if axis != first]
    return cuboid(np.zeros(3, int), edges[first], edges[others[0]], edges[others[1]])


def edge_length(edge):
    return int(np.abs(edge).sum())


def half(edge):
    """The middle, truncated toward zero and moved outward by one cell if that is odd and the edge longer than 2."""
    middle = np.trunc(edge / 2).astype(int)
    if edge_length(middle) % 2 and edge_length(edge) > 2:
        middle += np.sign(edge)
    return middle


def cuboid(start, a, b, c):
    """Cells of a cuboid with edges a, b, c, entered at start and left at the far end of a."""
    long, wide, deep = edge_length(a), edge_length(b), edge_length(c)
    for edge, others in ((a, (wide, deep)), (b, (long, deep)), (c, (long, wide))):
        if others == (1, 1):
            return [tuple(start + i * np.sign(edge)) for i in range(edge_length(edge))]
    a2, b2, c2 = half(a), half(b), half(c)
    a1, b1, c1 = np.sign(a), np.sign(b), np.sign(c)
    if 2 * long > 3 * wide and 2 * long > 3 * deep:
        pieces = [(0 * a, a2, b, c), (a2, a - a2, b, c)]
    elif 3 * wide > 4 * deep:
        pieces = [(0 * a, b2, c, a2), (b2, a, b - b2, c), ((a - a1) + (b2 - b1), -b2, c, a2 - a)]
    elif 3 * deep > 4 * wide:
        pieces = [(0 * a, c2, a2, b), (c2, a, b, c - c2), ((a - a1) + (c2 - c1), -c2, a2 - a, b)]
    else:
        pieces = [(0 * a, b2, c2, a2), (b2, c, a2, b - b2), ((b2 - b1) + (c - c1), a, -b2, c2 - c),
                  ((a - a1) + b2 + (c - c1), -c, a2 - a, b - b2), ((a - a1) + (b2 - b1), -b2, c2, a2 - a)]
    return [cell for offset, *edges in pieces for cell in cuboid(start + offset, *edges)]


# ---- Scores ----


def pool(x, pieces, valid):
    """Means over each piece's valid tokens, and how many there are."""
    counts = np.array([valid[piece].sum() for piece in pieces])
    nothing = np.zeros(x.shape[1])
    means = [x[piece][valid[piece]].mean(0) if n else nothing for piece, n in zip(pieces, counts)]
    return np.stack(means), counts


@dataclasses.dataclass
class Keys:
    """The key sub-tiles of a head: where they are, whose they are, their means and log n."""

    pieces: list
    tile: np.ndarray
    means: np.ndarray
    log_count: np.ndarray


@dataclasses.dataclass
class Logits:
    """z and P of a block's query sub-tiles by all key sub-tiles, and the weights n_I / n_u."""

    queries: np.ndarray
    z: np.ndarray
    probabilities: np.ndarray
    weights: np.ndarray


def scores(policy, sequence, q, k, v):
    """Scores: one head's, [blocks][tiles] in float64, and the spread of every row for the adaptive selection."""
    cut, (q, k, v) = Cut(policy, sequence), (x.astype(np.float64) for x in (q, k, v))
    spreads = np.zeros(len(cut.blocks))
    if policy.zero_pad:
        return zero_padded_mass(policy, sequence, cut, q, k), spreads
    gated_blocks = gate(q, cut.blocks, sequence.valid, policy.gate_queries)
    gated_tiles = gate(k, cut.tiles, sequence.valid, policy.gate_keys)
    if policy.select == "adaptive":
        result, spreads = raw_logits(policy, sequence, cut, q, k, cut.live & ~gated_tiles)
    elif policy.score.startswith("exact"):
        result = exact(policy, sequence, cut, q, k)
    else:
        result = pooled(policy, sequence, cut, (q, k, v), gated_tiles)
    result[:, gated_tiles] = np.inf
    result[gated_blocks] = np.inf
    return result, spreads


def gate(x, pieces, valid, least):
    """Gates: the blocks or tiles whose tokens are less alike than `least`."""
    alike = np.ones(len(pieces))
    for i, piece in enumerate(pieces):
        tokens = x[piece][valid[piece]]
        if len(tokens) > 1:
            mean = tokens.mean(0)
            norms = np.linalg.norm(tokens, axis=1) * np.linalg.norm(mean)
            alike[i] = np.where(norms > 0, tokens @ mean / np.where(norms > 0, norms, 1), 0).mean()
    return alike < least


def zero_padded_mass(policy, sequence, cut, q, k):
    """zero_pad: `mass` over a sequence filled up with zeros, which count."""
    def means(x, size, unit):
        filled = np.zeros((-(-sequence.length // unit) * unit, x.shape[1]))
        filled[:sequence.length] = np.where(sequence.valid[:, None], x, 0)
        return filled.reshape(-1, size, x.shape[1]).mean(1)

    queries, keys = means(q, policy.query_pool, policy.block_queries), means(k, policy.key_pool, policy.tile_keys)
    probabilities = softmax(queries @ keys.T / math.sqrt(q.shape[1]))
    by_block = probabilities.reshape(len(cut.blocks), policy.block_queries // policy.query_pool, len(cut.tiles), -1)
    return by_block.sum(3).mean(1)


def raw_logits(policy, sequence, cut, q, k, counted):
    """`mean` for the adaptive selection: logits in base 2, and their spread over the tiles that count."""
    queries, _ = pool(q, cut.blocks, sequence.valid)
    keys, _ = pool(k, cut.tiles, sequence.valid)
    queries *= LOG2_E / math.sqrt(q.shape[1])
    logits = queries @ keys.T
    variance = logits[:, counted].var(1) if policy.full_covariance else queries**2 @ keys[counted].var(0)
    return logits, np.sqrt(variance + 1e-6)


def exact(policy, sequence, cut, q, k):
    """`exact_max` and `exact_mass`: of dense attention's probabilities."""
    logits = q @ k.T / math.sqrt(q.shape[1])
    probabilities = softmax(np.where(sequence.valid, logits, -np.inf))
    result = np.zeros((len(cut.blocks), len(cut.tiles)))
    for u in np.flatnonzero(cut.block_valid):
        rows = probabilities[cut.blocks[u]][sequence.valid[cut.blocks[u]]]
        for t, tile in enumerate(cut.tiles):
            result[u, t] = rows[:, tile].max() if policy.score == "exact_max" else rows[:, tile].sum(1).mean()
    return result


def pooled(policy, sequence, cut, qkv, gated_tiles):
    """The scores that go by means of sub-tiles: z, P, and each block's row of them."""
    q, k, v = qkv
    query_pool, key_pool = policy.query_pool, policy.key_pool
    if policy.score == "mean":
        query_pool, key_pool = policy.block_queries, policy.tile_keys
    located = [(t, piece) for t, tile in enumerate(cut.tiles) for piece in parts(tile.start, tile.stop, key_pool)]
    pieces, tile_of = [piece for _, piece in located], np.array([t for t, _ in located])
    means, counts = pool(k, pieces, sequence.valid)
    out = (counts == 0) | gated_tiles[tile_of]
    keys = Keys(pieces, tile_of, means, np.where(out, -np.inf, np.log(np.maximum(counts, 1))))
    result = np.zeros((len(cut.blocks), len(cut.tiles)))
    for u in np.flatnonzero(cut.block_valid):
        block = cut.blocks[u]
        queries, counts = pool(q, parts(block.start, block.stop, query_pool), sequence.valid)
        queries, weights = queries[counts > 0], counts[counts > 0] / cut.block_valid[u]
        z = queries @ keys.means.T / math.sqrt(q.shape[1]) + keys.log_count
        if policy.score == "second_order":
            z += second_order(sequence, queries, keys, k)
        logits = Logits(queries, z, softmax(z), weights)
        result[u] = pooled_row(policy, sequence, logits, keys, v, len(cut.tiles))
    return result


def second_order(sequence, queries, keys, k):
    """Half of q' Sigma_J q * scale^2, which is half the population variance of q's logits over the keys of J."""
    raise_by = np.zeros((len(queries), len(keys.pieces)))
    for j, piece in enumerate(keys.pieces):
        members = k[piece][sequence.valid[piece]]
        if len(members):
            raise_by[:, j] = (queries @ members.T / math.sqrt(k.shape[1])).var(1) / 2
    return raise_by


def pooled_row(policy, sequence, logits, keys, v, tiles):
    """What every tile is worth to one block, from z and P."""
    row = np.zeros(tiles)
    if policy.score == "max":
        np.maximum.at(row, keys.tile, logits.probabilities.max(0))
    elif policy.score == "lse":
        np.add.at(row, keys.tile, logits.weights @ np.exp(logits.z))
        with np.errstate(divide="ignore"):
            row = np.log(row)
    elif policy.score == "deviation":
        np.add.at(row, keys.tile, deviation(policy, sequence, logits, v))
    else:
        np.add.at(row, keys.tile, logits.weights @ logits.probabilities)
    return row


def deviation(policy, sequence, logits, v):
    """`deviation` of every key: how far its probability and value are from its group's means."""
    worth = np.zeros(sequence.length)
    for group in parts(0, sequence.length, policy.score_group):
        members = group.start + np.flatnonzero(sequence.valid[group])
        if len(members):
            probabilities, values = logits.probabilities[:, members], v[members]
            apart = np.abs(probabilities - probabilities.mean(1, keepdims=True))
            worth[members] = (logits.weights @ apart) * np.linalg.norm(values - values.mean(0), axis=1)
    return worth


# ---- Select ----


def mask(policy, sequence, q, k, v):
    """All query heads of one batch item: the kept tiles, and the tiles near a cut; both [heads][blocks][tiles]."""
    cut, heads = Cut(policy, sequence), len(q)
    key_heads = [head // (heads // len(k)) for head in range(heads)]
    if policy.select in ("window", "radial"):
        pairs = (window_pairs if policy.select == "window" else radial_pairs)(policy, sequence)
        kept = np.stack([pattern(sequence, cut, pairs)] * heads)
        return kept, np.zeros_like(kept)
    if policy.select == "frames":
        choices = frames_choices(policy, sequence, cut)
        kept = np.stack([frames(policy, sequence, choices, q[h], k[g], v[g]) for h, g in enumerate(key_heads)])
        return kept, np.zeros_like(kept)
    scored = [scores(policy, sequence, q[h], k[g], v[g]) for h, g in enumerate(key_heads)]
    if policy.select == "budget":
        return budget(policy, cut, np.stack([s for s, _ in scored]).astype(np.float32))
    chosen = [by_rows(policy, sequence, cut, *head) for head in scored]
    return tuple(np.stack(arrays) for arrays in zip(*chosen))


def by_rows(policy, sequence, cut, head_scores, spreads):
    """Steps 1 to 4: a block without valid queries, one with text, forced tiles, free ones."""
    kept, near = cut.nothing_kept(), cut.nothing_kept()
    for u in np.flatnonzero(cut.block_valid):
        if cut.block_text[u]:
            kept[u] = cut.live
            continue
        row = head_scores[u].astype(np.float32)
        forced = forced_tiles(policy, cut, u, row)
        free = by_falling_score(np.flatnonzero(cut.live & ~forced), row)
        if policy.select == "topk":
            keep, near[u] = topk(policy, cut, row, forced, free)
        elif policy.select == "topp":
            keep, near[u] = topp(policy, row, forced, free)
        else:
            cutoff = threshold(policy, sequence) if policy.select == "threshold" else adaptive(
                policy, cut, head_scores[u], spreads[u])
            keep = [t for t in free if row[t] > cutoff]
            near[u] = np.abs(row - cutoff) <= NEAR * max(abs(cutoff), 1e-3 if policy.select == "adaptive" else 0)
        kept[u] = forced
        kept[u, keep] = True
    return kept, near


def forced_tiles(policy, cut, u, row):
    near_diagonal = np.abs(np.arange(len(cut.tiles)) - u) <= policy.neighbours - 1
    return cut.live & (cut.tile_text | near_diagonal | np.isposinf(row))


def by_falling_score(tiles, row):
    """Of equal scores the lower index first."""
    return sorted(tiles, key=lambda t: (-row[t], t))


def rounded_count(x):
    return math.floor(x + 0.5 + 1e-6)


def topk(policy, cut, row, forced, free):
    tiles = int(cut.live.sum())
    count = max(1, min(tiles, rounded_count(policy.density * tiles)))
    if policy.zero_pad:
        count = max(1, math.floor(policy.density * tiles))
    wanted = max(1, count - int(forced.sum()))
    keep, leave = free[:wanted], free[wanted:]
    return keep, near_ranks(row, keep, leave)


def near_ranks(values, keep, leave):
    """Of candidates in falling order, those that another rounding could take across the cut."""
    near = np.zeros(values.shape, bool)
    if keep and leave:
        lowest, highest = values[keep[-1]], values[leave[0]]
        for at in keep:
            near[at] = values[at] - highest <= NEAR * abs(highest)
        for at in leave:
            near[at] = lowest - values[at] <= NEAR * abs(lowest)
    return near


def topp(policy, row, forced, free):
    """One float32 sum: over the forced tiles by rising index, then over the free ones by falling score."""
    near = np.zeros(len(row), bool)
    if policy.tau >= 1 or not free:
        return free, near
    total = np.float32(0)
    for t in np.flatnonzero(forced):
        total = np.float32(total + (np.float32(0) if np.isposinf(row[t]) else row[t]))
    running = []
    for t in free:
        total = np.float32(total + row[t])
        running.append(total)
    need = np.float32(np.float32(policy.tau) * total)
    last = next((i for i, sum_so_far in enumerate(running) if sum_so_far >= need), len(free) - 1)
    for i in range(max(0, last - 1), min(len(free), last + 2)):
        near[free[i]] = abs(running[i] - need) <= NEAR * need
    return free[:last + 1], near


def threshold(policy, sequence):
    return np.float32(policy.threshold / float(sequence.valid.sum()))


def adaptive(policy, cut, row, spread):
    counted = cut.live & ~np.isposinf(row)
    return row[counted].mean() + policy.tau * spread if counted.any() else np.inf


def budget(policy, cut, head_scores):
    """`budget`: each open row's best tiles first, then the best of all rows, as shares of their row's sum."""
    tiles, rows = int(cut.live.sum()), len(head_scores) * int(cut.open.sum())
    total = min(rounded_count(policy.density * rows * tiles), rows * tiles)
    row_first = max(1, rounded_count(0.25 * policy.density * tiles))
    kept, shares, candidates = np.zeros(head_scores.shape, bool), np.zeros(head_scores.shape), []
    for h, u in np.ndindex(*head_scores.shape[:2]):
        if not cut.open[u]:
            kept[h, u] = cut.live & (cut.block_valid[u] > 0)
            continue
        row = head_scores[h, u]
        shares[h, u] = (row / row[cut.live].astype(np.float64).sum()).astype(np.float32)
        free = by_falling_score(np.flatnonzero(cut.live & ~cut.tile_text), row)
        kept[h, u] = cut.tile_text
        kept[h, u, free[:row_first]] = True
        candidates += [(-shares[h, u, t], h, u, t) for t in free[row_first:]]
    ranked = [tuple(place) for _, *place in sorted(candidates)]
    wanted = max(0, total - int(kept[:, cut.open].sum()))
    for place in ranked[:wanted]:
        kept[place] = True
    return kept, near_ranks(shares, ranked[:wanted], ranked[wanted:])


# ---- Select: patterns ----


def places(policy, sequence):
    """Frame, row and column of the i-th token of the policy's order."""
    raster = order(policy.order, sequence.frames, sequence.height, sequence.width)
    area = sequence.height * sequence.width
    return raster // area, raster % area // sequence.width, raster % sequence.width


def window_pairs(policy, sequence):
    """`window`: boxes of 4x4x4 cells around the query's; at the border the window is moved."""
    pairs = np.ones((sequence.video, sequence.video), bool)
    lengths = (sequence.frames, sequence.height, sequence.width)
    for length, place, size in zip(lengths, places(policy, sequence), policy.window):
        boxes, box = -(-length // 4), place // 4
        low = np.clip(box - size // 2, 0, max(boxes - size, 0))[:, None]
        pairs &= (low <= box) & (box < low + size)
    return pairs


def radial_pairs(policy, sequence):
    """`radial`: a band in the frame that halves with the distance's power of two, the diagonal, and key frame 0."""
    t, h, w = places(policy, sequence)
    place, area = h * sequence.width + w, sequence.height * sequence.width
    distance = np.abs(t[:, None] - t)
    r = 2.0 ** np.floor(np.log2(np.maximum(distance, 1)))
    band = np.abs(place[:, None] - place) + 1 <= policy.band_width * area / r
    diagonal = (place[:, None] == place) & (distance % np.ceil(r / (policy.band_width * area)) == 0)
    return band | diagonal | (t == 0)


def pattern(sequence, cut, pairs):
    """A tile is kept if any of its pairs is; text as in steps 1 to 3."""
    every = np.zeros((sequence.length, sequence.length), bool)
    every[np.ix_(sequence.is_video, sequence.is_video)] = pairs
    kept = cut.nothing_kept()
    for u in np.flatnonzero(cut.block_valid):
        kept[u] = cut.live
        if not cut.block_text[u]:
            kept[u] &= cut.tile_text | [every[cut.blocks[u], tile].any() for tile in cut.tiles]
    return kept


def frames_choices(policy, sequence, cut):
    """`frames`: the widest mask by frames and the widest by places whose density is within the policy's."""
    t, h, w = places(policy, sequence)
    place = h * sequence.width + w

    def widest(axis):
        distance, best = np.abs(axis[:, None] - axis), None
        for reach in range(axis.max() + 1):
            kept = pattern(sequence, cut, (distance <= reach) | (t == 0))
            if best is None or density_of_open_rows(cut, kept) <= policy.density:
                best = kept
        return best

    return widest(t), widest(place)


def density_of_open_rows(cut, kept):
    if not cut.open.any():
        return 0.0
    kept_pairs = cut.block_valid[cut.open] @ (kept[cut.open] @ cut.tile_valid)
    return kept_pairs / (cut.block_valid[cut.open].sum() * cut.tile_valid.sum())


def frames(policy, sequence, choices, q, k, v):
    """The choice with the lower output error on 64 queries; the first if equal."""
    samples = min(64, sequence.video)
    rows = sequence.prefix + (2 * np.arange(samples) + 1) * sequence.video // (2 * samples)
    logits = q[rows].astype(np.float64) @ k.astype(np.float64).T / math.sqrt(q.shape[1])
    dense = softmax(np.where(sequence.valid, logits, -np.inf)) @ v
    errors = []
    for kept in choices:
        keys = np.repeat(kept[rows // policy.block_queries], policy.tile_keys, axis=1)[:, :sequence.length]
        errors.append(np.linalg.norm(softmax(np.where(keys & sequence.valid, logits, -np.inf)) @ v - dense))
    return choices[0] if errors[0] <= errors[1] else choices[1]


# ---- Attend and measure ----


@dataclasses.dataclass
class Attention:
    """One head: outputs under a mask and dense, every query's recall, and the summary pairs."""

    output: np.ndarray
    dense: np.ndarray
    recall: np.ndarray
    summary_pairs: int


def attend(policy, sequence, q, k, v, kept):
    """Attend, with summaries of what is not kept: the softmax over a query's kept keys and its groups' remainders."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    logits = q @ k.T / math.sqrt(q.shape[1])
    probabilities = softmax(np.where(sequence.valid, logits, -np.inf))
    result = Attention(np.zeros(q.shape), probabilities @ v, np.zeros(sequence.length), 0)
    for u, block in enumerate(parts(0, sequence.length, policy.block_queries)):
        rows = block.start + np.flatnonzero(sequence.valid[block])
        keys = np.repeat(kept[u], policy.tile_keys)[:sequence.length] & sequence.valid
        if len(rows) == 0 or not (keys.any() or policy.summary_group):
            continue
        result.recall[rows] = probabilities[np.ix_(rows, keys)].sum(1)
        terms, values, counts = logits[np.ix_(rows, keys)], v[keys], np.ones(keys.sum())
        if policy.summary_group:
            mean_logits, mean_values, sizes = remainders(policy, sequence, logits[rows], v, keys)
            result.summary_pairs += mean_logits.size
            terms, values = np.hstack([terms, mean_logits]), np.vstack([values, mean_values])
            counts = np.concatenate([counts, sizes])
        weights = counts * np.exp(terms - terms.max(1, keepdims=True))
        result.output[rows] = weights @ values / weights.sum(1, keepdims=True)
    return result


def remainders(policy, sequence, logits, v, keys):
    """Every group's keys that are not kept: mean logits, mean values, and how many there are, where there are any."""
    left = [group.start + np.flatnonzero(sequence.valid[group] & ~keys[group])
            for group in parts(0, sequence.length, policy.summary_group)]
    left = [members for members in left if len(members)]
    if not left:
        return np.zeros((len(logits), 0)), np.zeros((0, v.shape[1])), np.zeros(0)
    return (np.stack([logits[:, members].mean(1) for members in left], axis=1),
            np.stack([v[members].mean(0) for members in left]), np.array([len(members) for members in left]))


def measure(policy, sequence, attentions):
    """Measure, every video query sampled: mean recall, lowest head's, 5th percentile of (head, block), output error."""
    video = np.flatnonzero(sequence.is_video)
    heads = [attention.recall[video].mean() for attention in attentions]
    in_block = [video[video // policy.block_queries == u] for u in np.unique(video // policy.block_queries)]
    blocks = [attention.recall[rows].mean() for attention in attentions for rows in in_block]
    squares = sum(((a.output[video] - a.dense[video]) ** 2).sum() for a in attentions)
    error = math.sqrt(squares / sum((a.dense[video] ** 2).sum() for a in attentions))
    return {"recall": np.mean(heads), "recall_worst": min(heads), "recall_p05": np.percentile(blocks, 5),
            "output_error": error}
