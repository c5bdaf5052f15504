"""Train a StyleNeRF: ``python train.py --preset quickstart``; ``--help`` tells the rest."""

import sys

from engine.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main())
