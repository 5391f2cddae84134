#!/usr/bin/env bash
# The whole pipeline on a real data set that needs no download: the 1,797 scanned digits that come with scikit-learn.
# It takes about two minutes on two cores after the installation.
#
#   bash launch/demo.sh
#
# Stop it with Ctrl-C and run it again to resume. When it is complete, running it again changes nothing but the sample.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

wgan shards make digits data/digits
wgan train configs/digits.yaml
wgan sample runs/digits --count 64 --out runs/digits/samples/demo.png

cat <<'END'

images      runs/digits/samples/demo.png     (64 new digits; the grids from training are in the same directory)
run         runs/digits                      (config, metrics, checkpoints)
curves      tensorboard --samples_per_plugin images=200 --logdir runs/digits (in .venv: source .venv/bin/activate)
END
