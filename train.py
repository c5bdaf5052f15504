"""Train a StyleNeRF: ``python train.py --preset quickstart``; ``--help`` tells the rest."""

import sys

from stylenerf.__main__ import start

if __name__ == "__main__":
    sys.exit(start("train_main"))
