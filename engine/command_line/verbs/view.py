"""``stylenerf view``: a local web page to look at a model."""

import argparse
import os
import signal
import sys
import threading
import webbrowser
from typing import Any

from .common import add_model_arguments, open_model

HELP = """Look at a model in a browser: drag to orbit, scroll to zoom, and see what each setting does at once.

    stylenerf view runs/quickstart                      http://127.0.0.1:8000/, opened in the browser
    stylenerf view models/ffhq --port 0                 any free port; the address is printed
    stylenerf view models/ffhq --device cuda:1 --no-browser
    ssh -L 8000:127.0.0.1:8000 gpu-box                  and on it: stylenerf view models/ffhq; browse on this machine
    stylenerf view models/ffhq --host 0.0.0.0           for other machines too: anybody who reaches it may look

Colour, depth, normals and opacity; seeds, truncation and style mixing; strict pixels, which sharpen once the camera
rests; screenshots, moving pictures and subjects (.npz for --latents) to keep. The address carries all settings: a link
shows what its sender saw. The page needs nothing from the network, and pages of other sites get nothing from it. Ctrl-C
ends. MP4 wants an extra: pip install 'stylenerf-engine[video]'.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--port", metavar="N", type=int, default=8000, help="0 is a free one (default: %(default)s)")
    parser.add_argument(
        "--host", metavar="NAME", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address, open nothing")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from ...applications.view.server import Server
    from ...applications.view.studio import Studio

    server = Server(args.host, args.port)
    before = _end_on(signal.SIGTERM)
    try:
        server.open(Studio(open_model(args)))
        about = server.studio.describe()
        print(f"model:       {about['name']}, {about['resolution']} px, on {about['device']}")
        print(f"page:        {server.url}  (Ctrl-C ends)", flush=True)
        if not args.no_browser and _has_screen():
            threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nended", flush=True)
    finally:
        server.close()
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return 0


def _end_on(number: signal.Signals) -> Any:
    """Let a signal end the viewer as Ctrl-C does; what stood before, or None outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(number, signal.default_int_handler)


def _has_screen() -> bool:
    """Whether a browser would open before the person who asks, not in the terminal or on a machine far away."""
    if "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
