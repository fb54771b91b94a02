#!/usr/bin/env bash
# Makes .venv-peers/PEER, an environment of its own for a peer that is measured beside this program.
#
#     bash bench/peers/make_env.sh fastai
#     bash bench/peers/make_env.sh setfit
#
# It is laid over .venv (`make setup` first): what is there already, above all torch, torchvision and timm, is read
# from there and not downloaded again, so that both sides compute with the same libraries; what the peer needs besides
# is installed here, where it cannot disturb .venv. That works as long as the peer allows those versions; pip says so
# when it does not. fastai 2.8.12 allows torch below 3 and was run with torch 2.14.1, timm 1.0.31 and numpy 2.4.6; it
# brought plum-dispatch 2.9.0, fastcore 2.2.39, fasttransform 0.0.5, fastprogress 1.1.6, matplotlib, spaCy and their
# like: 343 MB. setfit brings sentence-transformers, which is a peer of its own. The other peers need .venv alone.
set -euo pipefail
cd "$(dirname "$0")/../.."

case "${1:-}" in
  fastai) packages=("fastai>=2.8") names="fastai torch torchvision timm" ;;
  setfit) packages=("setfit>=1.1" "sentence-transformers>=5") names="setfit sentence-transformers transformers torch" ;;
  *) echo "usage: bash bench/peers/make_env.sh fastai|setfit" >&2; exit 2 ;;
esac
if [ ! -x .venv/bin/python ]; then
  echo "There is no .venv to lay it over: run 'make setup' first." >&2
  exit 2
fi

environment=".venv-peers/$1"
rm -rf "$environment"
.venv/bin/python -m venv "$environment"
packages_of() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
packages_of .venv > "$(packages_of "$environment")/main.pth"
"$environment/bin/python" -m pip install --quiet --only-binary :all: "${packages[@]}"
"$environment/bin/python" -c '
import importlib.metadata as m
import sys
print(", ".join(f"{name} {m.version(name)}" for name in sys.argv[1:]))' $names
