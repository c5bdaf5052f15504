// What a visitor takes along: screenshots, moving pictures, subjects, links.

const $ = (id) => document.getElementById(id);
const POLL_MS = 250;
const PATHS = { turntable: "Turntable", ellipse: "Ellipse", "full-turn": "Full turn", zoom: "Zoom in" };

function keep(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// An answer of the server; throws an Error with its one line.
async function ask(address, options) {
  const answer = await fetch(address, options);
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

// Fetch a file and keep it under the name that the server gives it.
async function keepFile(address) {
  const answer = await ask(address);
  const name = /filename="(.+?)"/.exec(answer.headers.get("Content-Disposition"))?.[1] ?? "stylenerf";
  const blob = await answer.blob();
  keep(blob, name);
  return { name, blob };
}

export const size = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

export async function screenshot(query) {
  const { name, blob } = await keepFile(`/api/image?${new URLSearchParams({ ...query, format: "png", download: 1 })}`);
  return `${name}, ${size(blob.size)}`;
}

export async function subject(query) {
  const { name } = await keepFile(`/api/subject?${new URLSearchParams(query)}`);
  return `${name}: for --latents of the other commands`;
}

export async function copyLink() {
  await navigator.clipboard.writeText(location.href);
  return "Link copied";
}

// The choice of path, length and format, and a button that records or stops.
export class Recorder {
  constructor(about, say) {
    Object.assign(this, { say, running: null, fps: 24 });
    const fill = (id, pairs) => pairs.forEach(([value, text]) => $(id).add(new Option(text, value)));
    fill("film-path", about.paths.map((p) => [p, PATHS[p] ?? p]));
    fill("film-frames", [24, 48, 96, 192].filter((n) => n <= about.max_frames).map((n) => [n, `${n / this.fps} s`]));
    fill("film-kind", about.kinds.map((k) => [k, { webp: "WebP", gif: "GIF", mp4: "MP4" }[k] ?? k]));
    $("film-frames").value = "48";
  }

  async press(query) {
    if (this.running) {
      const stopped = this.running;
      await ask(`/api/video/${stopped}/stop`, { method: "POST" }).catch(() => {});
      return;
    }
    const shot = { path: $("film-path").value, frames: $("film-frames").value, fps: this.fps, kind: $("film-kind").value };
    try {
      const film = await (await ask(`/api/video?${new URLSearchParams({ ...query, ...shot })}`, { method: "POST" })).json();
      this.show(film);
      await this.watch(film.id);
    } catch (error) {
      this.say(error.message);
    }
    this.show(null);
  }

  async watch(id) {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      const film = await (await ask(`/api/video/${id}`)).json();
      this.show(film);
      if (film.state === "failed") throw new Error(film.error);
      if (film.state === "stopped") return this.say("Recording stopped");
      if (film.state === "done") return this.finish(id);
    }
  }

  async finish(id) {
    const { name, blob } = await keepFile(`/api/video/${id}/file`);
    const picture = $("film-picture");
    if (picture.src) URL.revokeObjectURL(picture.src);
    picture.hidden = !blob.type.startsWith("image/");
    if (!picture.hidden) picture.src = URL.createObjectURL(blob);
    $("film-caption").textContent = `${name}, ${size(blob.size)}`;
    $("film-result").hidden = false;
    this.say(`${name}, ${size(blob.size)}`);
  }

  show(film) {
    this.running = film?.state === "running" ? film.id : null;
    const active = film !== null && film.state !== "stopped";
    $("film-progress").hidden = !active;
    $("film-progress").value = active ? film.done / film.frames : 0;
    const writing = active && film.done === film.frames;
    $("film-text").textContent = !active ? "Record" : writing ? "Writing the file" : `Stop (${film.done} of ${film.frames})`;
    $("film-choice").classList.toggle("active", active);
  }
}
