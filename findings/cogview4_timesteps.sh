#!/usr/bin/env bash
# torch 2.13.0, diffusers 0.42.1
#
# One would guess that a flow-matching pipeline tells its denoiser the noise level that its latents have: timestep =
# 1000 * sigma, as FLUX, SD3, Qwen-Image and the rest of FlowMatchEulerDiscreteScheduler's users do. CogView4 hands its
# scheduler timesteps and sigmas. The scheduler shifts the sigmas by the size of the picture and keeps the timesteps:
# the denoiser is told the time before the shift. Whoever shows it latents with half of noise at timestep 500 shows it
# something that it never meets: half of noise goes with another timestep, and with another one for another size.
#
# UniPC and DPM-Solver, with which Wan and Sana come, cut flow timesteps to whole numbers: sigma .9001 is told as 900.
#
# Output seen, sigma and timestep in thousandths:
#   CogView4 at 1024 pixels: sigma 1000 told 1000, sigma 867 told 667, sigma 620 told 334, sigma 3 told 1
#   UniPC: sigma 1000.00 told 999, sigma 900.12 told 900, sigma 750.37 told 750, sigma 501.00 told 500
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet diffusers==0.42.1 transformers==5.23.0 numpy
cat > "$folder/run.py" <<'PY'
import sys

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.pipelines.cogview4.pipeline_cogview4 import calculate_shift, retrieve_timesteps

scheduler = FlowMatchEulerDiscreteScheduler(
    base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
)
timesteps = np.linspace(1000, 1.0, 4).astype(np.int64).astype(np.float32)  # as the pipeline does, for 1024 x 1024
shift = calculate_shift((1024 // 16) ** 2, 256, 0.25, 0.75)
retrieve_timesteps(scheduler, 4, "cpu", timesteps, timesteps / 1000, mu=shift)
pairs = [(1000 * float(s), float(t)) for s, t in zip(scheduler.sigmas, scheduler.timesteps)]
print("CogView4 at 1024 pixels:", ", ".join(f"sigma {s:.0f} told {t:.0f}" for s, t in pairs))
shifted = abs(pairs[1][0] - pairs[1][1]) > 50

other = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
other.set_timesteps(4)
told = [(1000 * float(s), int(t)) for s, t in zip(other.sigmas, other.timesteps)]
print("UniPC:", ", ".join(f"sigma {s:.2f} told {t}" for s, t in told))
cut = all(t == int(s) for s, t in told)
if not (shifted and cut):
    sys.exit("the behaviour has changed: timesteps follow the sigmas")
PY
"$folder/venv/bin/python" "$folder/run.py"
