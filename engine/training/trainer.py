"""A run from start to end: its folder, the loop, statistics, snapshots, interruption and exact resumption.

<run>/config.json  stats.jsonl  images/*.png  checkpoints/...
"""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from ...kernels.base.choices import replaced
from ..data import Dataset, camera_from_label, open_dataset
from ..errors import UserError, one_line
from ..extras import need
from ..files import write_whole
from ..interrupt import Interrupt
from .best import Best
from .checkpoint import check_writable, checkpoint_at, latest_checkpoint, read_checkpoint, write_checkpoint
from .config import FREE_ON_RESUME, NETWORK_SECTIONS, Config
from .config_io import apply_overrides, from_dict, leaves, to_dict
from .divergence import EXIT_DIVERGED, Watch, nonfinite_weights
from .initial import InitialWeights
from .metrics.detector import load_detector
from .monitor import Monitor
from .phase_graphs import graphs_for
from .report.page import report_run
from .report.record import DATA_KEY
from .report.tensorboard import FOLDER as EVENTS
from .report.tensorboard import EventWriter
from .stats import Accumulator, ProgressBar, StatsWriter, peak_memory_mib, read_stats
from .step import Interrupted, Stepper, TrainState

WEEKS_S = 14 * 86400
Report = Callable[[str], None]
Row = dict[str, float | int | str | None]
CAMERAS_LOOKED_AT = 1000


def open_training_data(cfg: Config, report: Report) -> Dataset:
    """The data set that ``cfg.data`` names, at the generator's resolution.

    Raises: UserError, also if no ray from the cameras of its labels would meet the object.
    """
    data = open_dataset(
        cfg.data.path,
        resolution=cfg.generator.resolution,
        mirror=cfg.data.mirror,
        use_labels=cfg.data.labels,
        camera_prior=cfg.camera,
        num_scenes=cfg.data.scenes,
        seed=cfg.train.seed,
        report=report,
        cache_bytes=cfg.data.cache_mib * 2**20,
    )
    if data.label_kind == "camera":
        some = [torch.as_tensor(data.label(i)) for i in range(min(data.num_images, CAMERAS_LOOKED_AT))]
        distance = float(camera_from_label(torch.stack(some), check=False).position.norm(dim=1).median())
        near, far = cfg.generator.field.near, cfg.generator.field.far
        if not near < distance < far:
            raise UserError(
                f"data.labels: wanted cameras whose distance from the origin lies between generator.field.near and "
                f"far, {near:g} and {far:g} (rays are sampled there only), got {distance:.4g} (the median)"
            )
    return data


def resolve_resume(path: Path, overrides: list[str], data: str | None, report: Report) -> tuple[Config, dict[str, Any]]:
    """Config and state to resume from: the run's newest checkpoint that verifies, with overrides on its config.

    Raises: UserError if there is none, if an override changes the networks that the checkpoint holds, or if ``data`` is
        not the run's own.
    """
    if not os.path.isdir(path):  # unlike Path.is_dir, false for any name that leads nowhere, however long
        raise UserError(f"--resume: wanted a run folder with a checkpoint, got {path}, which is no folder")
    folder = path if (path / "manifest.json").is_file() else latest_checkpoint(path, report)
    if folder is None:
        raise UserError(f"--resume: wanted a run folder with an intact checkpoint, got none in {path}")
    state, meta = read_checkpoint(folder)
    if "config" not in meta:
        raise UserError(f"--resume: wanted a training checkpoint, got {folder} (its meta.json has no config)")
    before = from_dict(Config, meta["config"], where="")
    if data is not None:
        if os.path.realpath(data) != os.path.realpath(before.data.path):
            run, other = shlex.quote(str(path)), shlex.quote(data)
            raise UserError(
                f"--data: wanted the data of the run, {before.data.path}, got {data}; for a new run on other data: "
                f"--init {run} --data {other} --out NEW; if the same data moved: --resume {run} --set data.path={other}"
            )
        overrides = [*overrides, f"data.path={json.dumps(data)}"]
    cfg = from_dict(Config, apply_overrides(meta["config"], overrides, Config), where="")
    for section in NETWORK_SECTIONS:
        old, new = (leaves(to_dict(getattr(c, section)), section) for c in (before, cfg))
        for key in old:
            if old[key] != new[key] and key not in FREE_ON_RESUME:
                raise UserError(f"{key}: wanted {old[key]}, as in {folder}, got {new[key]}")
    report(f"resuming from {folder} at {meta['images_shown'] / 1000:g} kimg")
    return cfg, state


class Trainer:
    """Owns a run's folder and state.

    Args:
        cfg: the configuration.  data: opened images.  run_dir: the run's folder, made if absent.
        resume: the ``state`` of a checkpoint, or None for a fresh start.
        init: weights of another model to begin with.
        report: takes one line per message.
        choices: of kernels for this machine, in force already; written into the run and its checkpoints.
    """

    def __init__(
        self,
        cfg: Config,
        data: Dataset,
        run_dir: Path,
        device: torch.device,
        *,
        resume: dict[str, Any] | None = None,
        init: InitialWeights | None = None,
        report: Report = print,
        progress: bool = True,
        choices: dict[str, Any] | None = None,
    ) -> None:
        if cfg.monitor.tensorboard:
            need("tensorboard", "monitor.tensorboard")
        detector = None if cfg.monitor.detector is None else load_detector(cfg.monitor.detector, device)
        check_writable(run_dir)
        self.cfg, self.data, self.run_dir, self.device = cfg, data, run_dir, device
        self.report, self.progress, self.choices = report, progress, choices
        self.stats = Accumulator()
        self.state = TrainState.create(cfg, data.label_dim, device)
        if init is not None:
            init.copy_into(self.state, report)
        self.writer = StatsWriter(run_dir / "stats.jsonl")
        self.first_figures: dict[str, float] = {}
        self.best = Best()
        self.estimate_shown = False
        self.losses = ""  # of the last row, for the progress bar
        self.watch = Watch(cfg.train.max_nonfinite_steps, report)
        self.saved_at = -1
        # a row whose snapshot is due: of a new run, or of a run interrupted during a snapshot
        self.pending: Row | None = {"Progress/images": self.state.images_shown, DATA_KEY: data.num_images}
        if resume is not None:
            self._restore(resume)
        _write_json(to_dict(cfg), run_dir / "config.json")
        if choices is not None:
            _write_json(choices, run_dir / "choices.json")
        since = None if resume is None else self.state.images_shown + 1
        self.events = EventWriter(run_dir / EVENTS, since) if cfg.monitor.tensorboard else None
        self.stepper = Stepper(cfg, data, self.state, self.stats, device)
        if self.stepper.augment is not None:
            report(f"augment:     {self.stepper.augment.describe()}")
        self.stepper.graphs = graphs_for(cfg, device, report)
        self.monitor = Monitor(cfg, data, run_dir / "images", device, detector)

    def _restore(self, saved: dict[str, Any]) -> None:
        before = saved.get("label_kind", self.data.label_kind)
        if before != self.data.label_kind:
            raise UserError(f"--resume: wanted labels of kind {before}, as in the run, got {self.data.label_kind}")
        try:
            self.state.load_state_dict(saved["state"])
            self.stats.load_state_dict(saved["accumulator"])
            self.first_figures = dict(saved["first_figures"])
            self.best = Best(**saved.get("best", {}))
            self.watch.streak = int(saved.get("nonfinite_steps", 0))
            self.pending, self.saved_at = saved.get("pending"), self.state.images_shown
        except (KeyError, RuntimeError, ValueError) as error:
            reason = one_line(error)[:200]
            raise UserError(f"--resume: wanted a checkpoint of this configuration's networks, got: {reason}") from None
        bad = nonfinite_weights(self.state)
        if bad is not None:
            raise UserError(f"--resume: wanted weights that are finite, got {bad}; go on from an older checkpoint")
        self.writer.truncate_after(self.state.images_shown)

    def run(self) -> int:
        """Train to ``total_kimg``. Returns 0, or 3 if it diverged; raises KeyboardInterrupt after a checkpoint."""
        cfg = self.cfg.train
        total = math.ceil(cfg.total_kimg * 1000 / cfg.batch) * cfg.batch
        tick_start_s, tick_images = time.monotonic(), self.state.images_shown
        with (
            Interrupt() as interrupt,
            ProgressBar(total, "training", initial=self.state.images_shown, enabled=self.progress) as bar,
        ):
            self.stepper.before_round = lambda phase, number: self._between(
                interrupt, bar, f"step {self.state.step + 1}, {phase}, round {number + 1} of {self.stepper.rounds}"
            )
            self.monitor.before_batch = lambda progress: self._between_pictures(interrupt, bar, progress)
            self._snapshot()
            tick_start_s = start_s = time.monotonic()
            first = self.state.images_shown
            while self.state.images_shown < total:
                before = self.state.images_shown
                try:
                    self.stepper.run()
                except Interrupted:
                    self._stop()
                now = self.state.images_shown
                if before == first:
                    self._estimate(time.monotonic() - start_s, total - now)
                snapshot = now >= total or _crossed(before, now, cfg.snapshot_kimg)
                bar.update(now - before)
                tick = snapshot or _crossed(before, now, cfg.tick_kimg)
                if self._diverged(tick):
                    bar.close()
                    return self._give_up(
                        self._row((time.monotonic() - tick_start_s) / max(now - tick_images, 1) * 1000)
                    )
                if tick:
                    elapsed_s, shown = time.monotonic() - tick_start_s, now - tick_images
                    row = self._row(elapsed_s / max(shown, 1) * 1000)
                    self.losses = f"G {row['Loss/generator']:.2f} D {row['Loss/discriminator']:.2f}, "
                    bar.update(0, self.losses.rstrip(", "))
                    if snapshot:
                        self.pending = row
                        self._snapshot()
                    else:
                        self._write(row)
                    tick_start_s, tick_images = time.monotonic(), now
                if interrupt.requested:
                    self._stop()
        self._summary()
        return 0 if self.saved_at == self.state.images_shown else EXIT_DIVERGED

    def _between(self, interrupt: Interrupt, bar: ProgressBar, progress: str) -> None:
        """Between two rounds or two batches of pictures: stop on Ctrl-C, show the progress."""
        if interrupt.requested:
            raise Interrupted
        bar.update(0, f"{self.losses}{progress}")

    def _between_pictures(self, interrupt: Interrupt, bar: ProgressBar, progress: str) -> None:
        """Warn of a run of weeks by the time of the first pictures: a training image costs at least four of them.

        That is two forward passes, of generator and discriminator, and a backward pass worth about two.
        """
        self._between(interrupt, bar, f"pictures, {progress}")
        picture_s = self.monitor.picture_s
        if picture_s is None or self.estimate_shown:
            return
        least_s = 4 * picture_s * (self.cfg.train.total_kimg * 1000 - self.state.images_shown)
        self._name_smaller(least_s, f"at least {_duration(least_s)}, as one picture takes {picture_s:.2g} s")

    def _name_smaller(self, left_s: float, estimate: str) -> None:
        """Suggest a smaller run, once, if this one would take weeks."""
        if left_s < WEEKS_S or self.estimate_shown:
            return
        self.estimate_shown = True
        data = shlex.quote(self.cfg.data.path)
        self.report(f"estimate:    {estimate}; hours: python train.py --preset quickstart --data {data}")

    def _stop(self) -> NoReturn:
        """Save the last complete step and stop."""
        self.save()
        self.report(f"interrupted; go on with: python train.py --resume {shlex.quote(str(self.run_dir))}")
        raise KeyboardInterrupt

    def _estimate(self, step_s: float, images_left: int) -> None:
        """Report the remaining time after the first step, and a smaller run if it is weeks."""
        left_s = step_s * images_left / self.cfg.train.batch
        text = f"{step_s:.3g} s for the first step, about {_duration(left_s)} for the rest at that speed"
        self.report(f"estimate:    {text}")
        self._name_smaller(left_s, "weeks")

    def _diverged(self, tick: bool) -> bool:
        """Pass the step's flags to the watch; read them at a tick, or at once on a device that need not synchronise."""
        self.watch.step_done(self.state.step, self.stepper.nonfinite)
        return (tick or self.device.type == "cpu") and self.watch.read(self.state)

    def _give_up(self, row: Row) -> int:
        """Write the last statistics, but no checkpoint, so that the finite ones stay."""
        self._write(row)
        limit, newest = self.cfg.train.max_nonfinite_steps, latest_checkpoint(self.run_dir)
        self.report(
            f"stopped: diverged at step {self.state.step}, {limit} steps in a row were not finite "
            f"(train.max_nonfinite_steps); the last good checkpoint is {newest}"
        )
        self.report(
            f"go on from it with lower rates: python train.py --resume {shlex.quote(str(self.run_dir))} --set "
            f"optimiser.generator_lr={self.cfg.optimiser.generator_lr / 2:g} --set "
            f"optimiser.discriminator_lr={self.cfg.optimiser.discriminator_lr / 2:g}"
        )
        if self.cfg.monitor.report:
            report_run(self.run_dir, self.report)
        return EXIT_DIVERGED

    def _write(self, row: Row) -> None:
        """Write a row of statistics to the disk, and to TensorBoard if it is asked for."""
        self.writer.write(row)
        self.writer.flush()
        if self.events is not None:
            self.events.write(row)
            self.events.flush()

    def _row(self, sec_per_kimg: float) -> Row:
        """One row of statistics; empties the accumulator."""
        growth = self.state.generator.synthesis.growth(self.stepper.alpha)
        row: Row = {
            "Progress/images": self.state.images_shown,
            "Progress/step": self.state.step,
            "Growth/alpha": self.stepper.alpha,
            "Growth/resolution": growth.resolution,
            **self.stats.summarise(),
            "Time/sec_per_kimg": sec_per_kimg,
            "Memory/peak_mib": peak_memory_mib(self.device),
            "Health/replaced_ops": len(replaced()),
        }
        self.stats.reset()
        return row

    def _snapshot(self) -> None:
        """Write pictures and the due row with its metrics, then the checkpoint, which never precedes them.

        An interrupted snapshot is repeated when the run is resumed.
        """
        if self.pending is None:
            return
        if not self.first_figures:
            self.report("first:       pictures and figures of the model as it begins, then the first step")
        start_s = time.monotonic()
        try:
            if not self.first_figures:
                self.monitor.reals()
            figures = self.monitor.figures(self.state.average)
            if self._evaluation_due():
                figures |= self.monitor.evaluation(self.state.average, self.state.images_shown)
            self.monitor.pictures(self.state.average, self.state.images_shown)
        except Interrupted:
            self._stop()
        self.first_figures = self.first_figures or figures
        edge = self.state.average.synthesis.growth().resolution
        self.best = self.best.after(figures.get(f"Metric/{self.cfg.monitor.best}"), self.state.images_shown, edge)
        self._write({**self.pending, **figures, "Time/snapshot_s": time.monotonic() - start_s})
        self.pending, self.saved_at = None, -1
        self.save()
        shown = ", ".join(f"{name.removeprefix('Metric/')} {value:.3g}" for name, value in figures.items())
        self.report(f"{self.state.images_shown / 1000:8.1f} kimg  {shown}")

    def _evaluation_due(self) -> bool:
        """Whether a multiple of ``evaluate_kimg`` lies since the last snapshot; true of the first and last one."""
        now, cfg = self.state.images_shown, self.cfg
        before = now - round(cfg.train.snapshot_kimg * 1000)
        last = now >= cfg.train.total_kimg * 1000
        return last or now == 0 or _crossed(before, now, cfg.monitor.evaluate_kimg)

    def save(self) -> Path | None:
        """Write a checkpoint of the current state, unless one was just written or the state has diverged."""
        if self.saved_at == self.state.images_shown:
            return None
        reason = self.watch.unfit_to_save(self.state)
        if reason is not None:
            self.report(f"no checkpoint at step {self.state.step}: {reason}; older ones are kept")
            return None
        state = {
            "state": self.state.state_dict(),
            "accumulator": self.stats.state_dict(),
            "first_figures": self.first_figures,
            "best": self.best._asdict(),
            "device": self.device.type,
            "nonfinite_steps": self.watch.streak,
            "label_kind": self.data.label_kind,
            "pending": self.pending,
            "choices": self.choices,
        }
        meta = {"config": to_dict(self.cfg), "label_dim": self.data.label_dim, "label_kind": self.data.label_kind}
        path = write_checkpoint(self.run_dir, self.state.images_shown, state, meta, spare=self.best.images)
        self.saved_at = self.state.images_shown
        return path

    def _summary(self) -> None:
        last = next((r for r in reversed(read_stats(self.writer.path)) if "Metric/view_residual" in r), {})
        for name, first in self.first_figures.items():
            if name in last:  # null stands for a non-finite value
                now = math.nan if last[name] is None else last[name]
                self.report(f"  {name.removeprefix('Metric/'):24s} {first:10.4g} -> {now:10.4g}")
        self.report(f"pictures:    {self.run_dir / 'images'}")
        self.report(f"checkpoint:  {latest_checkpoint(self.run_dir)}")
        best = None if self.best.images is None else checkpoint_at(self.run_dir, self.best.images)
        if best is not None:
            self.report(f"best:        {best}  ({self.cfg.monitor.best} {self.best.value:.4g})")
        self.report(f"statistics:  {self.writer.path}")
        if self.cfg.monitor.report:
            report_run(self.run_dir, self.report)


def _write_json(value: dict[str, Any], path: Path) -> None:
    """Write a file atomically: a full disk leaves the old one."""
    text = json.dumps(value, indent=2) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def _duration(seconds: float) -> str:
    for name, unit_s in (("weeks", 7 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.3g} {name}"
    return f"{seconds:.3g} seconds"


def _crossed(before: int, now: int, every_kimg: float) -> bool:
    """Whether a multiple of ``every_kimg`` lies in (before, now], a function of the counts alone."""
    every = every_kimg * 1000
    return math.floor(now / every) > math.floor(before / every)


def with_data_path(cfg: Config, path: str | None) -> Config:
    """The configuration with another data set, if one was named."""
    return cfg if path is None else replace(cfg, data=replace(cfg.data, path=path))
