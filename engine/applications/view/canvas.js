// The picture: what to ask the server for and when, drawing it, and the pointers that move the camera.

const REST_MS = 140; // without a change, before a finer picture is asked for
const RETRY_MS = 1500;

export class Pictures {
  // stages() gives the queries of one picture, coarse to fine; on has shown(info), busy(text), wrong(text), lost(isLost).
  constructor(canvas, stages, on) {
    Object.assign(this, { canvas, stages, on, smooth: true, bitmap: null, flight: null, wanted: false, turn: 0 });
    this.context = canvas.getContext("2d");
    this.client = Array.from(crypto.getRandomValues(new Uint8Array(10)), (b) => (b % 36).toString(36)).join("");
    new ResizeObserver(() => this.fit()).observe(canvas);
  }

  // Something has changed: show it as soon as the picture under way is here; a fine one is not waited for.
  change() {
    this.wanted = true;
    this.canvas.dataset.rests = "0";
    clearTimeout(this.timer);
    if (this.flight?.fine) {
      this.flight.abort.abort();
      this.flight = null;
    }
    if (!this.flight) this.coarse();
  }

  async coarse() {
    this.wanted = false;
    const [first, ...finer] = this.stages();
    await this.load(first, false);
    if (this.wanted) this.coarse();
    else if (finer.length && !this.flight) this.timer = setTimeout(() => this.refine(finer), REST_MS);
    else this.settle();
  }

  async refine([next, ...finer]) {
    this.on.busy(next.text);
    const shown = await this.load(next, true);
    if (shown && finer.length && !this.wanted) return this.refine(finer);
    this.settle();
  }

  settle() {
    if (this.flight || this.wanted) return;
    this.on.busy("");
    this.canvas.dataset.rests = "1";
  }

  // One picture; whether it came to be seen.
  async load(stage, fine) {
    const flight = { fine, abort: new AbortController() };
    this.flight = flight;
    if (!fine) this.on.busy("");
    const begun = performance.now();
    try {
      const query = new URLSearchParams({ ...stage.query, client: this.client, turn: ++this.turn });
      const answer = await fetch(`/api/image?${query}`, { signal: flight.abort.signal });
      if (answer.status === 204) return false; // another request of ours came first
      if (answer.status === 503) throw new Error("the viewer is about to end");
      if (!answer.ok) {
        this.on.wrong((await answer.json()).error);
        return false;
      }
      const bitmap = await createImageBitmap(await answer.blob());
      if (this.flight !== flight) return false;
      this.bitmap?.close();
      this.bitmap = bitmap;
      this.draw();
      this.on.lost(false);
      const header = (name) => Number(answer.headers.get(name));
      const strict = "strict" in stage.query;
      this.on.shown({ fine, strict, render: header("X-Render-Ms"), trip: performance.now() - begun, edge: header("X-Edge") });
      return true;
    } catch (error) {
      if (error.name === "AbortError") return false;
      this.on.lost(true);
      this.timer = setTimeout(() => this.change(), RETRY_MS);
      return false;
    } finally {
      if (this.flight === flight) this.flight = null;
    }
  }

  fit() {
    const edge = Math.max(Math.round(this.canvas.clientWidth * devicePixelRatio), 1);
    if (this.canvas.width !== edge) this.canvas.width = this.canvas.height = edge;
    this.draw();
  }

  draw() {
    if (!this.bitmap) return;
    const { context, canvas } = this;
    context.imageSmoothingEnabled = this.smooth;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.bitmap, 0, 0, canvas.width, canvas.height);
  }
}

// Pointers over the picture: orbit(dx, dy) in widths of the picture, zoom(factor) > 1 nearer, reset().
export function follow(canvas, { orbit, zoom, reset }) {
  const held = new Map();
  const spread = () => {
    const [a, b] = [...held.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (!before) return;
    const width = canvas.clientWidth;
    const apart = held.size === 2 ? spread() : 0;
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (held.size === 2) zoom(Math.max(spread(), 1) / Math.max(apart, 1));
    else if (held.size === 1) orbit((event.clientX - before.x) / width, (event.clientY - before.y) / width);
  });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"])
    canvas.addEventListener(name, (event) => held.delete(event.pointerId));
  const step = (event) => {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 30 : 1);
    zoom(Math.exp(-Math.max(Math.min(pixels, 200), -200) * 0.0015));
  };
  canvas.addEventListener("wheel", step, { passive: false });
  canvas.addEventListener("dblclick", reset);
}
