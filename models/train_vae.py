"""Train the toy's VAE on drawn clips. Resumable and seeded; see README.md.

    python models/train_vae.py --state DIR --minutes 15            # CPU
    python models/train_vae.py --state DIR --minutes 2 --device cuda
"""

import argparse
import os
import pathlib
import time

import torch

import grammar
import optim
import render
import wanvae

# (share of steps, frames, full height = width of the frame that the 48-pixel window is cut from)
VIEWS = ((0.40, 9, 64), (0.20, 9, 128), (0.10, 17, 64), (0.30, 9, 256))
WINDOW = 48


def batch(seed, step, size, device):
    """Clips [size, 3, F, 48, 48]: windows of small and large frames, by `VIEWS`."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    pick = torch.multinomial(torch.tensor([v[0] for v in VIEWS]), 1, generator=generator).item()
    _, frames, side = VIEWS[pick]
    scene = render.to_device(grammar.sample(size, generator, "all"), device)
    top, left = torch.randint(side - WINDOW + 1, (2,), generator=generator).tolist()
    return render.draw(scene, frames, side, side, (top, left, WINDOW, WINDOW))


def loss_terms(vae, video, light, light_decoder, kl_weight, noise):
    """Reconstruction (L1 + MSE), KL; the latent gets posterior noise plus `noise` of its own spread."""
    mean, logvar = wanvae.encode(vae, video, light)
    spread = mean.detach().std(dim=(0, 2, 3, 4), keepdim=True)
    latent = mean + torch.randn_like(mean) * torch.sqrt(logvar.exp() + (noise * spread) ** 2)
    error = wanvae.decode(vae, latent, light_decoder) - video
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    mse = error.square().mean()
    return error.abs().mean() + mse + (kl_weight * kl if mean.requires_grad else 0.0), mse, kl


@torch.no_grad()
def measure(vae, device, light, clips=8, frames=9, side=128):
    """PSNR in dB of the decoded mean on drawn clips, and the latents' mean and deviation per channel."""
    generator = torch.Generator().manual_seed(999)
    errors, latents = [], []
    for _ in range(clips):
        scene = render.to_device(grammar.sample(1, generator, "all"), device)
        video = render.draw(scene, frames, side, side)
        mean, _ = wanvae.encode(vae, video, light)
        errors.append((wanvae.decode(vae, mean).clamp(-1, 1) - video).square().mean() / 4)
        latents.append(mean)
    psnr = torch.stack([-10 * torch.log10(e) for e in errors]).mean().item()
    stacked = torch.cat(latents)
    return psnr, stacked.mean((0, 2, 3, 4)).tolist(), stacked.std((0, 2, 3, 4)).tolist()


def save(path, **state):
    """Write a checkpoint atomically."""
    torch.save(state, str(path) + ".part")
    os.replace(str(path) + ".part", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=pathlib.Path, required=True, help="folder of the checkpoint vae.pt")
    parser.add_argument("--minutes", type=float, default=15, help="training time over all resumed runs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=0, help="0: 2 on CPU, 32 on CUDA")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--kl", type=float, default=2e-4)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--full-encoder", action="store_true", help="also train the high-resolution encoder resnets")
    parser.add_argument("--light-decoder", type=float, default=0.6, help="share of the time in which the "
                        "full-resolution resnets of the decoder wait (they start as identities)")
    parser.add_argument("--decoder-only", action="store_true", help="keep the encoder (and so the latents) as it is")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    size = args.batch or (32 if args.device == "cuda" else 2)
    light = not args.full_encoder
    vae = wanvae.build(args.seed)
    if not (args.state / "vae.pt").exists():
        wanvae.principal_init(vae, [batch(args.seed + 77, i, 4, "cpu") for i in range(80)])
    vae.to(args.device)
    if light:
        wanvae.freeze_light(vae)
    if args.decoder_only:
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(False)
    names = ("conv_in.", "conv_out.", "quant_conv")  # first and last layers go to AdamW
    optimiser = optim.Optimiser(vae.named_parameters(), args.muon_lr, args.adam_lr, adam_names=names)
    average = optim.Average(vae, 0.998)
    step, spent = 0, 0.0
    args.state.mkdir(parents=True, exist_ok=True)
    path = args.state / "vae.pt"
    if path.exists():
        kept = torch.load(path, map_location=args.device)
        vae.load_state_dict(kept["model"])
        if "optimiser" in kept:  # a state restored from an exported model has none
            average.values, average.count = kept["average"], kept["count"]
            optimiser.load_state_dict(kept["optimiser"])
        else:
            average = optim.Average(vae, 0.998)
        step, spent = kept["step"], kept["spent"]

    def keep():
        average.swap(vae)
        psnr, mean, std = measure(vae, args.device, light)
        ema = {k: v.clone() for k, v in vae.state_dict().items()}
        average.swap(vae)
        print(f"step {step} minutes {spent / 60:.1f} psnr {psnr:.2f} std {[round(s, 2) for s in std]}", flush=True)
        save(path, model=vae.state_dict(), average=average.values, count=average.count, ema=ema, light=light,
             optimiser=optimiser.state_dict(), step=step, spent=spent, psnr=psnr, mean=mean, std=std)

    saved = time.monotonic()
    while spent < args.minutes * 60:
        began = time.monotonic()
        video = batch(args.seed, step, size, args.device)
        torch.manual_seed(args.seed * 7_000_003 + step)
        loss, mse, kl = loss_terms(vae, video, light, spent < args.light_decoder * args.minutes * 60, args.kl, args.noise)
        loss.backward()
        optimiser.step(optim.schedule(spent / (args.minutes * 60), step))
        average.update(vae)
        step += 1
        if step % 25 == 0:
            print(f"{step} loss {loss.item():.4f} psnr {-10 * torch.log10(mse / 4).item():.2f} kl {kl.item():.2f}", flush=True)
        # A pause of the process (SIGSTOP) does not count.
        spent += min(time.monotonic() - began, 20.0)
        if time.monotonic() - saved > 120:
            keep()
            saved = time.monotonic()
    keep()


if __name__ == "__main__":
    main()
