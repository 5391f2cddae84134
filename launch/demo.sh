#!/usr/bin/env bash
# The whole pipeline once, on a real data set that needs no download: the 1,797 scanned digits that ship
# inside scikit-learn. About two minutes on two cores, after the installation.
#
#   bash launch/demo.sh
#
# Run it again to see that nothing is done twice; stop it with Ctrl-C and run it again to continue.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

wgan shards make digits data/digits
wgan train configs/digits.yaml
wgan sample runs/digits --count 64 --out runs/digits/samples/demo.png

cat <<'END'

images      runs/digits/samples/demo.png     (64 new digits; earlier grids lie beside it)
the run     runs/digits                      (config, metrics, checkpoints)
curves      tensorboard --logdir runs/digits (in .venv: source .venv/bin/activate)
END
