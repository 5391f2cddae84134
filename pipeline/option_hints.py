"""What options of other tools are called here: hints for a name that is not known."""

from __future__ import annotations

import re

_STEPS = (
    "schedule.steps: a step is one generator update, and an epoch of N images has about N / (schedule.global_batch x "
    "schedule.critic_updates) of them"
)
_BATCH = "schedule.global_batch, the samples of an update over all processes"
_RATE = "critic_optimizer.lr and generator_optimizer.lr"
_RESUME = "not needed: the same command resumes a run by itself, and so does `wgan train runs/NAME`"
_WEIGHTS = "init_from.generator and init_from.critic"
_PROCESSES = (
    "runtime.processes, or `wgan train CONFIG --processes N`. Without it, `wgan train` uses every GPU that "
    "CUDA_VISIBLE_DEVICES names"
)
_FLIP = "data.flip, which mirrors images"
_AUGMENT = "augment.kinds, as in augment.kinds=[colour,shift,cutout]; ADA has augment.target too"
_RECORDS = (
    "not needed: TensorBoard files and metrics.jsonl are always written, and a sink of your own (monitor.sinks) can "
    "send the figures elsewhere"
)
_PLACE = "name and run_root: a run is written to the directory run_root/name"
_SIZE = "data.resolution: a side, or [height, width]; without it images have the size that the shards hold"
_PENALTY = "objective.weight, with objective.name=gradient_penalty"

_SPELLINGS = {
    _STEPS: "epochs epoch n_epochs num_epochs max_epochs max_steps num_steps n_iter niter iterations max_iter kimg",
    _BATCH: "batch batch_size bs train_batch_size minibatch",
    _RATE: "learning_rate lr_d lr_g lrd lrg d_lr g_lr dlr glr",
    _RESUME: "resume resume_from resume_from_checkpoint ckpt ckpt_path load_checkpoint auto_resume restart",
    _WEIGHTS: "pretrained weights load_weights finetune netg netd init_weights",
    _PROCESSES: "gpus gpu n_gpus num_gpus ngpu gpu_ids devices num_processes nproc nproc_per_node world_size",
    _FLIP: "mirror hflip horizontal_flip xflip",
    _AUGMENT: "augmentation augmentations aug ada diffaugment diffaug transforms",
    "objective.r1": "r1_gamma gamma lambda_r1 r1_weight",
    "objective.r_every": "d_reg_every r1_interval",
    _RECORDS: "wandb wandb_project use_wandb tensorboard logger report_to mlflow",
    _PLACE: "out outdir out_dir output output_dir save_dir logdir log_dir exp_name experiment run_name project",
    _SIZE: "res image_size img_size imsize imagesize size crop_size",
    _PENALTY: "gp gp_weight lambda_gp gp_lambda gradient_penalty",
    "data.shards, made by `wgan shards make`": "dataset dataroot data_root data_dir data_path train_data path",
    "schedule.critic_updates": "n_critic ncritic critic_iters n_dis d_steps diters",
    "objective.clip": "clip_value weight_clip clamp clamp_value clamp_upper",
    "model.latent": "nz z_dim zdim latent_dim latent_size dim_z",
    "model.width": "ngf ndf nf n_filters base_channels",
    "precision": "amp fp16 bf16 half mixed_precision dtype",
    "seed": "random_seed manual_seed manualseed random_state",
    "data.workers": "num_workers n_workers dataloader_workers",
    "runtime.threads": "num_threads n_threads",
    "checkpoint.every": "save_every save_interval save_freq snap snapshot checkpoint_every",
    "monitor.sample_every": "sample_interval sample_freq vis_every",
    "monitor.log_every": "log_interval log_freq print_every",
    "ema_decay, or ema_half_life in images": "ema use_ema ema_kimg",
    "data.classes": "class_names only_classes",
}  # fmt: skip

HINTS = {name: hint for hint, names in _SPELLINGS.items() for name in names.split()}
"""What to use instead, by the name that other tools have for it, in lower case."""


def hint_for(name: str) -> str | None:
    """What an option of another tool is called here, or None if the name is not known. "--batch-size" is one too."""
    plain = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
    return HINTS.get(plain)
