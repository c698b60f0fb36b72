"""Fast checks of the model's scripts: `python -m pytest models`."""

import json
import pathlib
import sys

import pytest
import torch

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

import grammar  # noqa: E402
import judge  # noqa: E402
import recall_gate  # noqa: E402
import render  # noqa: E402
import text  # noqa: E402
import train_dit  # noqa: E402
import wandit  # noqa: E402
import wanvae  # noqa: E402

TOY = HERE / "toy"
needs_toy = pytest.mark.skipif(not (TOY / "model_index.json").exists(), reason="no exported model")


def scenes(count, seed=3, which="all"):
    return grammar.sample(count, torch.Generator().manual_seed(seed), which)


def test_sentences_parse_back():
    scene = scenes(500)
    for row, sentence in zip(grammar.rows(scene), grammar.sentences(scene)):
        said = grammar.parse(sentence)
        for field, value in said.items():
            if value >= 0:
                assert row[field] == value, (sentence, field)
        assert set(sentence.replace(",", "").split()) <= set(grammar.words())


def test_parse_refuses_other_text():
    with pytest.raises(ValueError):
        grammar.parse("a photograph of a cat")


def test_held_out_is_kept_out():
    assert not grammar.held_out(scenes(2000, which="training")).any()
    assert grammar.held_out(scenes(50, which="held-out")).all()


def test_drawing_is_deterministic_and_windows_agree():
    clip = render.draw(scenes(3), 5, 64, 96)
    assert torch.equal(clip, render.draw(scenes(3), 5, 64, 96))
    assert clip.shape == (3, 3, 5, 64, 96) and clip.min() >= -1.001 and clip.max() <= 1.001
    part = render.draw(scenes(3), 5, 64, 96, window=(8, 16, 32, 40))
    assert torch.allclose(part, clip[..., 8:40, 16:56], atol=1e-5)


def test_layout_points_at_the_objects():
    scene = scenes(4)
    layout = render.layout(scene, 9, 64, 64).view(4, 3, 4, 4, render.LAYOUT)
    x, _ = render.tracks(scene, 9, 64, 64)
    centre = (torch.arange(4) + 0.5) / 4
    assert torch.allclose(layout[:, 1, 0, :, 1], (x[:, 2, None] - centre).clamp(-1, 1), atol=1e-6)


def test_layout_shows_the_main_object():
    scene = scenes(60)
    scene["shape2"].fill_(-1)
    clip = render.draw(scene, 9, 128, 128)
    empty = render.draw({**scene, "shape": torch.full_like(scene["shape"], -1)}, 9, 128, 128)
    drawn = ((clip - empty).abs().amax(1)[:, 2] > 0.1).float()  # frame 2 is what latent frame 1 looks at
    covered = render.layout(scene, 9, 128, 128).view(60, 3, 8, 8, render.LAYOUT)[:, 1, ..., 10:]
    cells = covered.unflatten(-1, (4, 4)).permute(0, 1, 3, 2, 4).reshape(60, 32, 32)
    seen = torch.nn.functional.avg_pool2d(drawn[:, None], 4)[:, 0]
    assert (cells - seen).abs().mean() < 0.02 and (cells - seen).abs().max() < 0.8


def test_judge_on_drawn_clips_and_shuffled_prompts():
    scene = scenes(100, seed=11)
    rows = grammar.rows(scene)
    clips = render.draw(scene, 17, 64, 64)
    seen = [judge.observe(clip) for clip in clips]
    assert all(v >= 0.99 for v in judge.score(seen, rows).values())
    assert all(v <= 0.45 for v in judge.score(seen, rows[1:] + rows[:1]).values())


def test_judge_reads_y4m(tmp_path):
    clip = render.draw(scenes(1, seed=5), 9, 64, 64)[0]
    rgb = (clip.permute(1, 0, 2, 3) + 1) * 127.5
    r, g, b = rgb.unbind(1)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    planes = torch.stack([y, (b - y) / 1.772 + 128, (r - y) / 1.402 + 128], 1).round().clamp(0, 255).byte()
    frames = b"".join(b"FRAME\n" + p.numpy().tobytes() for p in planes)
    path = tmp_path / "0.y4m"
    path.write_bytes(b"YUV4MPEG2 W64 H64 F16:1 Ip A1:1 C444 XCOLORRANGE=FULL\n" + frames)
    assert (judge.read_y4m(path) - clip).abs().max() < 0.04


def test_vae_in_one_sweep_equals_diffusers():
    vae = wanvae.build()
    torch.manual_seed(0)
    for p in vae.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    video = torch.rand(1, 3, 9, 32, 40) * 2 - 1
    with torch.no_grad():
        mean, _ = wanvae.encode(vae, video)
        assert torch.allclose(mean, vae.encode(video).latent_dist.mean, atol=1e-4)
        assert torch.allclose(wanvae.decode(vae, mean).clamp(-1, 1), vae.decode(mean).sample, atol=1e-4)


def test_light_encoder_is_exact_after_principal_init():
    vae = wanvae.build()
    clips = [render.draw(scenes(4, seed=s), 9, 64, 64) for s in range(6)]
    wanvae.principal_init(vae, clips)
    with torch.no_grad():
        light, _ = wanvae.encode(vae, clips[0], light=True)
        full, _ = wanvae.encode(vae, clips[0])
    assert wanvae.is_light(vae) and torch.allclose(light, full, atol=1e-5)
    assert 0.5 < light.std() < 1.5


def test_transformer_equals_diffusers():
    model, encoder = wandit.build(size="small"), text.build_encoder()
    torch.manual_seed(0)
    for p in model.parameters():
        p.data.add_(0.05 * torch.randn_like(p))
    ids = torch.tensor([[4, 7, 47, 1, 0, 0], [1, 0, 0, 0, 0, 0]])
    mask = (ids != 0).long()
    latent, timestep = torch.randn(2, 16, 3, 8, 10), torch.tensor([17, 900])
    with torch.no_grad():
        context = text.embed(encoder, ids, mask)
        padded = torch.cat([context, torch.zeros(2, text.CONTEXT - 6, context.shape[2])], 1)
        expected = model(latent, timestep, padded).sample
        tables = wandit.rope_table(model, (3, 4, 5), "cpu")
        got = wandit.forward(model, latent, timestep, context, mask, *tables)
    assert torch.allclose(got, expected, atol=1e-4)


def test_hilbert_order_has_no_jumps():
    for grid in ((5, 8, 8), (9, 11, 11), (3, 5, 7), (1, 4, 6)):
        points = recall_gate.gilbert(grid[2], grid[1], grid[0])
        assert len(set(points)) == grid[0] * grid[1] * grid[2]
        assert all(max(abs(a - b) for a, b in zip(p, q)) == 1 for p, q in zip(points, points[1:]))


def test_best_recall_at_full_density_is_one():
    q, k = torch.randn(2, 2, 150, 16).unbind(0)
    assert torch.allclose(recall_gate.best_recall(q, k, 1.0), torch.ones(2), atol=1e-5)


def test_long_thin_grids_show_every_rotary_offset():
    seen = [set(), set(), set()]
    for view in train_dit.THIN:
        for axis, size in enumerate(render.tokens(*view)):
            seen[axis] |= set(range(size))
    assert [len(s) for s in seen] == [21, 30, 52]


@needs_toy
def test_export_loads_and_is_small():
    from diffusers import WanPipeline

    assert sum(f.stat().st_size for f in TOY.rglob("*") if f.is_file()) <= 16_000_000
    default = json.loads((TOY / "default.json").read_text())
    grid = render.tokens(default["frames"], default["height"], default["width"])
    assert default["frames"] % 4 == 1 and grid[0] * grid[1] * grid[2] >= 1024
    assert (TOY / "vocabulary.txt").read_text().split() == grammar.words()
    pipe = WanPipeline.from_pretrained(TOY)
    pipe.set_progress_bar_config(disable=True)
    prompt = grammar.sentences(scenes(1))[0]
    ids = pipe.tokenizer([prompt]).input_ids[0]
    mine, mask = text.Prompts(TOY / "tokenizer")([prompt])
    assert ids == mine[0, : int(mask.sum())].tolist() and ids[-1] == 1
    generator = torch.Generator().manual_seed(0)
    clip = pipe(prompt, height=64, width=64, num_frames=5, num_inference_steps=2, generator=generator).frames
    assert clip.shape == (1, 5, 64, 64, 3)


@needs_toy
def test_own_sampler_equals_pipeline():
    import sample
    from diffusers import WanPipeline

    prompt = grammar.sentences(scenes(1))[0]
    toy = sample.Toy(TOY)
    mine = toy.latents([prompt], [5], 5, 64, 64, 3, 4.0)
    pipe = WanPipeline.from_pretrained(TOY, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(prompt, height=64, width=64, num_frames=5, num_inference_steps=3, guidance_scale=4.0,
                  generator=torch.Generator().manual_seed(5), output_type="latent").frames
    assert torch.allclose(mine, theirs, atol=2e-3)
