// The page: its state, its controls, its address, its keys.

import { Pictures, follow } from "/canvas.js";
import { Recorder, copyLink, screenshot, subject } from "/files.js";

const $ = (id) => document.getElementById(id);
const DEGREES = 180 / Math.PI;
const BEYOND = 2; // standard deviations that count as the range of a gaussian
const STEEPEST = 0.06; // radians from the poles, where up is no direction
const MOST_UNASKED = 256; // pixels a side that depth, normals and opacity sharpen to without Strict
const SLIDERS = ["truncation", "samples", "mix-amount", "yaw", "pitch", "fov", "radius"];
const state = {};
let about, defaults, pictures, recorder;
let turning = 0;
let frames = 0; // per second, while something moves

const middle = ([low, high]) => (low + high) / 2;
const clamp = (value, [low, high]) => Math.min(Math.max(value, low), high);
const whole = (text, most) => /^[0-9]{1,16}$/.test(text) && Number(text) <= most;

// ---- the camera

// What the training saw, as [low, high]: of a gaussian, two standard deviations either way.
function seen(name) {
  const [low, high] = about[name];
  if (about.distribution !== "gaussian") return [low, high];
  const [centre, reach] = [middle([low, high]), (BEYOND * (high - low)) / 2];
  return [centre - reach, centre + reach];
}
const goesRound = () => about.yaw[1] - about.yaw[0] >= 2 * Math.PI - 1e-3;

function bounds(name) {
  const poles = [STEEPEST, Math.PI - STEEPEST];
  if (name === "fov") return about.fov.range;
  if (name === "radius") return about.radius;
  if (state.clamp && !(name === "yaw" && goesRound())) {
    const range = seen(name);
    return name === "pitch" ? range.map((v) => clamp(v, poles)) : range;
  }
  return name === "pitch" ? poles : [middle(about.yaw) - Math.PI, middle(about.yaw) + Math.PI];
}

function aim(name, value) {
  const [low, high] = bounds(name);
  const round = name === "yaw" && high - low >= 2 * Math.PI - 1e-3;
  state[name] = round ? low + ((((value - low) % (2 * Math.PI)) + 2 * Math.PI) % (2 * Math.PI)) : clamp(value, [low, high]);
}

const magnification = () => Math.tan(about.fov.own / DEGREES / 2) / Math.tan(state.fov / DEGREES / 2);

function zoom(factor) {
  const half = Math.tan(state.fov / DEGREES / 2) / factor;
  aim("fov", 2 * Math.atan(half) * DEGREES);
  changed();
}

function orbit(dx, dy) {
  const [low, high] = about.yaw;
  const reach = clamp(high - low, [0.8, Math.PI]) / Math.max(magnification(), 1);
  aim("yaw", state.yaw - dx * reach); // the object follows the hand
  aim("pitch", state.pitch - dy * reach);
  changed();
}

function reset() {
  turn(false);
  for (const name of ["yaw", "pitch", "fov", "radius"]) state[name] = defaults[name];
  changed();
}

function turn(on) {
  turning = on ? turning + 1 || 1 : 0;
  $("turn").setAttribute("aria-pressed", String(on));
  $("turn").querySelector("use").setAttribute("href", on ? "#i-pause" : "#i-play");
  if (!on) return;
  const [run, begun] = [turning, performance.now()];
  const [low, high] = bounds("yaw");
  const round = high - low >= 2 * Math.PI - 1e-3;
  const [centre, half] = [(low + high) / 2, (high - low) / 2];
  const first = round ? state.yaw : Math.asin(clamp((state.yaw - centre) / (half || 1), [-1, 1]));
  const advance = (now) => {
    if (turning !== run) return;
    const phase = first + (now - begun) / 1000;
    aim("yaw", round ? phase : centre + half * Math.sin(phase));
    changed();
    requestAnimationFrame(advance);
  };
  requestAnimationFrame(advance);
}

// ---- what the server is asked for

function query() {
  const wanted = { seed: state.seed, truncation: state.truncation, show: state.show, parts: state.parts };
  for (const name of ["yaw", "pitch", "fov"]) wanted[name] = state[name].toFixed(5);
  if (about.radius[0] < about.radius[1]) wanted.radius = state.radius.toFixed(4);
  if (about.labels) wanted.label = state.label;
  if (state.samples !== about.samples.own) wanted.samples = state.samples;
  if (state.mixing && state.rows.length) Object.assign(wanted, { mix: state.mix, mix_rows: state.rows.join(","), mix_amount: state.amount });
  return wanted;
}

// Depth, normals and opacity have only as many pixels as the volume has rays, unless each gets a ray of its own.
const wantsFine = () => about.strict && (state.strict || (state.show !== "colour" && about.rays < about.resolution));
const fineEdge = () => (state.strict ? state.resolution : Math.min(about.resolution, MOST_UNASKED));
const fine = (edge) => ({ ...query(), strict: 1, resolution: edge });

// A strict picture that came this fast is shown while the camera moves, too; one that does not, once it rests.
const QUICK_MS = 200;
const quick = { edge: 0, trip: Infinity };

function stages() {
  if (wantsFine() && quick.edge === fineEdge() && quick.trip < QUICK_MS)
    return [{ query: { ...fine(fineEdge()), format: "png" } }];
  const first = { query: { ...query(), format: about.resolution <= 256 ? "png" : "jpeg" } };
  if (!wantsFine() || turning) return [first];
  const edge = fineEdge();
  const edges = edge > about.resolution && edge >= 256 ? [about.resolution, edge] : [edge];
  return [first, ...edges.map((e) => ({ query: { ...fine(e), format: "png" }, text: `Sharpening, ${e} px` }))];
}

const whatIsKept = () => (wantsFine() ? fine(fineEdge()) : query());

// ---- showing the state

function changed() {
  showControls();
  showCamera();
  keepAddress();
  pictures.change();
}

function showControls() {
  const values = { ...state, "mix-amount": state.amount, pitch: Math.PI / 2 - state.pitch };
  for (const id of SLIDERS) {
    const slider = $(id);
    if (["yaw", "pitch", "fov", "radius"].includes(id)) {
      const [low, high] = bounds(id);
      [slider.min, slider.max] = id === "pitch" ? [Math.PI / 2 - high, Math.PI / 2 - low] : [low, high];
    }
    slider.value = values[id];
    const share = (slider.value - slider.min) / (slider.max - slider.min || 1);
    slider.style.setProperty("--fill", `calc(9px + ${share} * (100% - 18px))`); // up to the middle of the thumb
    const text = shownValue(id, values[id]);
    slider.parentElement.querySelector("output").textContent = text;
    slider.setAttribute("aria-valuetext", text);
  }
  for (const id of ["seed", "mix"]) if (document.activeElement !== $(id)) $(id).value = state[id];
  for (const id of ["strict", "smooth", "clamp"]) $(id).checked = state[id];
  $("mix-on").checked = state.mixing;
  $("mixing").classList.toggle("off", !state.mixing);
  $("label").value = state.label;
  $("resolution").value = state.resolution;
  $("resolution").disabled = !state.strict;
  for (const name of ["show", "parts"]) document.querySelector(`input[name="${name}"][value="${state[name]}"]`).checked = true;
  for (const box of $("rows").querySelectorAll("input")) box.checked = state.rows.includes(box.value);
  $("mix-state").textContent = state.mixing ? `seed ${state.mix}, ${Math.round(state.amount * 100)} %` : "off";
  const names = { colour: "", depth: "Depth, warm is near", normals: "Normals", opacity: "Opacity" };
  const words = [names[state.show], state.parts === "foreground" ? "Foreground" : state.parts === "background" ? "Background" : ""];
  $("badge").textContent = words.filter(Boolean).join(" · ");
  $("badge").hidden = !$("badge").textContent;
}

function shownValue(id, value) {
  if (id === "samples") return value === about.samples.own ? `${value}, the model's own` : String(value);
  if (id === "mix-amount") return `${Math.round(value * 100)} %`;
  if (id === "truncation") return value.toFixed(2);
  if (id === "radius") return value.toFixed(3);
  return id === "fov" ? `${value.toFixed(1)}°` : `${(value * DEGREES).toFixed(1)}°`;
}

function showCamera() {
  const places = { yaw: [48, 28, 6, 90], pitch: [22, 12, 5, 39] };
  let outside = false;
  for (const [name, [centre, half, low, high]] of Object.entries(places)) {
    const [least, most] = seen(name);
    const reach = (most - least) / 2 || 1;
    const offset = (state[name] - middle([least, most])) / reach;
    outside ||= Math.abs(offset) > 1.001 && !(name === "yaw" && goesRound());
    $("map-dot").setAttribute(name === "yaw" ? "cx" : "cy", clamp(centre + offset * half, [low, high]));
  }
  document.body.classList.toggle("outside", outside);
  const degrees = (value) => `${(value * DEGREES).toFixed(0)}°`.replace("-0°", "0°").replace("-", "−");
  const parts = [["yaw", degrees(state.yaw)], ["elevation", degrees(Math.PI / 2 - state.pitch)], ["zoom", `${magnification().toFixed(2)}×`]];
  const made = (tag, text, name = "") => Object.assign(document.createElement(tag), { textContent: text, className: name });
  const line = parts.map(([name, value]) => {
    const part = made("span", `${name} `, "part");
    part.append(made("b", value));
    return part;
  });
  if (outside) line.push(made("span", "outside the training", "far"));
  $("readout").replaceChildren(...line);
  $("camera-state").textContent = state.clamp ? "" : "free";
}

function shown(info) {
  const frame = (shown.before && performance.now() - shown.before < 1000 && 1000 / (performance.now() - shown.before)) || 0;
  shown.before = performance.now();
  frames = frame ? (frames ? 0.8 * frames + 0.2 * frame : frame) : 0;
  if (info.strict) Object.assign(quick, { edge: info.edge, trip: info.trip });
  const kind = info.strict ? `${info.edge} px, strict` : `${info.edge} px`;
  const rate = frames && !info.fine ? ` · ${frames.toFixed(0)} pictures a second` : "";
  $("status").textContent = `${kind} · rendered in ${ms(info.render)} · here in ${ms(info.trip)}${rate}`;
  const canvas = $("canvas");
  canvas.dataset.shown = String(Number(canvas.dataset.shown ?? 0) + 1);
  canvas.dataset.edge = info.edge;
  canvas.dataset.fine = info.strict ? "1" : "0";
}
const ms = (value) => (value < 1000 ? `${value.toFixed(0)} ms` : `${(value / 1000).toFixed(1)} s`);

function say(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => ($("toast").hidden = true), 4500);
}

// ---- the address carries what differs from the defaults

function keepAddress() {
  clearTimeout(keepAddress.timer); // browsers allow only so many changes in a time
  keepAddress.timer = setTimeout(() => history.replaceState(null, "", addressOf()), 150);
}

function addressOf() {
  const differing = Object.keys(defaults).filter((k) => String(state[k]) !== String(defaults[k]));
  const text = (v) => (typeof v === "number" ? String(Math.round(v * 1e5) / 1e5) : typeof v === "boolean" ? String(Number(v)) : String(v));
  const hash = new URLSearchParams(differing.map((k) => [k, text(state[k])])).toString();
  return hash ? `#${hash.replaceAll("%2C", ",")}` : location.pathname;
}

function readAddress() {
  Object.assign(state, structuredClone(defaults));
  const given = new URLSearchParams(location.hash.slice(1));
  const allowed = { show: ["colour", "depth", "normals", "opacity"], parts: about.parts, resolution: about.resolutions.map(String) };
  for (const [name, text] of given) {
    const before = defaults[name];
    if (name === "seed" || name === "mix") { if (whole(text, about.max_seed)) state[name] = String(Number(text)); }
    else if (name === "rows") state.rows = about.rows.filter((r) => text.split(",").includes(r));
    else if (allowed[name]) { if (allowed[name].includes(text)) state[name] = name === "resolution" ? Number(text) : text; }
    else if (typeof before === "boolean") state[name] = text === "1";
    else if (typeof before === "number" && text && Number.isFinite(Number(text))) state[name] = Number(text);
  }
  state.strict &&= about.strict;
  state.truncation = clamp(state.truncation, about.truncation.range);
  state.samples = Math.round(clamp(state.samples, about.samples.range));
  state.amount = clamp(state.amount, [0, 1]);
  state.label = Math.round(clamp(state.label, [0, Math.max(about.labels - 1, 0)]));
  for (const name of ["yaw", "pitch", "fov", "radius"]) aim(name, state[name]);
}

// ---- controls

function fillControls() {
  $("name").textContent = about.name;
  $("name").title = about.path;
  document.title = `${about.name} · StyleNeRF`;
  const millions = `${(about.parameters / 1e6).toFixed(about.parameters < 1e7 ? 2 : 0)} M parameters`;
  const facts = [`${about.resolution} px`, `${about.rays} px volume`, millions, about.device];
  $("facts").replaceChildren(...facts.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  $("truncation").min = about.truncation.range[0];
  $("truncation").max = about.truncation.range[1];
  [$("samples").min, $("samples").max] = about.samples.range;
  for (const edge of about.resolutions) $("resolution").add(new Option(`${edge} px`, edge));
  for (let k = 0; k < Math.min(about.labels, 10000); k++) $("label").add(new Option(String(k), k));
  $("label-field").hidden = !about.labels;
  $("radius-field").hidden = about.radius[0] === about.radius[1];
  for (const radio of document.querySelectorAll('input[name="parts"]')) radio.parentElement.hidden = !about.parts.includes(radio.value);
  $("rows").replaceChildren(...about.rows.map((row) => {
    const label = document.createElement("label");
    const text = row[0].toUpperCase() + row.slice(1);
    label.append(Object.assign(document.createElement("input"), { type: "checkbox", value: row }), Object.assign(document.createElement("span"), { textContent: text }));
    return label;
  }));
  if (!about.strict) {
    $("strict").disabled = true;
    $("strict-hint").textContent = "Wants an upsampler of 1x1 layers; this model has wider ones.";
  }
  if (about.distribution === "gaussian") $("clamp-text").textContent = "Stay within two standard deviations of the training";
  const box = { x: 20, y: 10, width: 56, height: 24 };
  for (const [name, value] of Object.entries(box)) $("map-range").setAttribute(name, value);
  $("map-axes").setAttribute("d", "M48 4v36M6 22h84");
  defaults = {
    seed: "0", truncation: about.truncation.own, label: 0, show: "colour", parts: "all", strict: false,
    resolution: about.resolution, samples: about.samples.own, smooth: true, mixing: false, mix: "1", rows: [...about.rows],
    amount: 1, yaw: middle(about.yaw), pitch: middle(about.pitch), fov: about.fov.own, radius: middle(about.radius), clamp: true,
  };
}

function set(name, value) {
  state[name] = value;
  changed();
}

function stepSeed(name, by) {
  const next = by ? clamp(Number(state[name]) + by, [0, about.max_seed]) : Math.floor(Math.random() * 100000);
  $(name).blur();
  showSeedError(name, false);
  if (name === "mix") state.mixing = true;
  set(name, String(next));
}

function showSeedError(id, wrong) {
  $(id).setAttribute("aria-invalid", String(wrong));
  $("seed-wrong").hidden = !wrong;
  $("seed-wrong").textContent = wrong ? `A whole number of 0 to ${about.max_seed}` : "";
}

function connectControls() {
  for (const id of ["seed", "mix"]) {
    $(id).addEventListener("input", () => {
      const good = whole($(id).value.trim(), about.max_seed);
      showSeedError(id, !good);
      if (good && id === "mix") state.mixing = true;
      if (good) set(id, String(Number($(id).value)));
    });
    $(id).addEventListener("blur", () => { showSeedError(id, false); $(id).value = state[id]; });
  }
  for (const id of ["truncation", "samples"]) $(id).addEventListener("input", (e) => set(id, Number(e.target.value)));
  $("mix-amount").addEventListener("input", (e) => { state.mixing = true; set("amount", Number(e.target.value)); });
  for (const id of ["yaw", "fov", "radius"]) $(id).addEventListener("input", (e) => { turn(false); aim(id, Number(e.target.value)); changed(); });
  $("pitch").addEventListener("input", (e) => { turn(false); aim("pitch", Math.PI / 2 - Number(e.target.value)); changed(); });
  $("strict").addEventListener("change", (e) => set("strict", e.target.checked));
  $("smooth").addEventListener("change", (e) => { state.smooth = pictures.smooth = e.target.checked; pictures.draw(); keepAddress(); });
  $("clamp").addEventListener("change", (e) => { state.clamp = e.target.checked; aim("yaw", state.yaw); aim("pitch", state.pitch); changed(); });
  $("mix-on").addEventListener("change", (e) => set("mixing", e.target.checked));
  $("label").addEventListener("change", (e) => set("label", Number(e.target.value)));
  $("resolution").addEventListener("change", (e) => set("resolution", Number(e.target.value)));
  for (const radio of document.querySelectorAll('input[type="radio"]')) radio.addEventListener("change", () => set(radio.name, radio.value));
  $("rows").addEventListener("change", () => {
    state.mixing = true;
    set("rows", [...$("rows").querySelectorAll(":checked")].map((box) => box.value));
  });
  document.querySelector('[data-do="full"]').hidden = !document.fullscreenEnabled;
  $("panel").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => { readAddress(); pictures.smooth = state.smooth; changed(); });
  document.addEventListener("click", (event) => {
    const wish = event.target.closest("[data-do]")?.dataset.do;
    if (wish) actions[wish]();
  });
  follow($("canvas"), { orbit: (dx, dy) => { turn(false); orbit(dx, dy); }, zoom, reset });
}

// Do it and say how it went.
const report = (work) => work.then((text) => text && say(text), (error) => say(error.message));

const actions = {
  previous: () => stepSeed("seed", -1),
  next: () => stepSeed("seed", 1),
  random: () => stepSeed("seed", 0),
  "mix-previous": () => stepSeed("mix", -1),
  "mix-next": () => stepSeed("mix", 1),
  "mix-random": () => stepSeed("mix", 0),
  reset,
  turn: () => turn(!turning),
  full: () => (document.fullscreenElement ? document.exitFullscreen() : $("frame").requestFullscreen()),
  help: () => $("help").showModal(),
  screenshot: () => report(screenshot(whatIsKept())),
  subject: () => report(subject(query())),
  link: () => { history.replaceState(null, "", addressOf()); report(copyLink()); },
  film: () => report(recorder.press(whatIsKept())),
};

const show = (what) => () => set("show", state.show === what ? "colour" : what);
const keys = {
  ArrowLeft: () => orbit(0.04, 0), ArrowRight: () => orbit(-0.04, 0), ArrowUp: () => orbit(0, 0.04), ArrowDown: () => orbit(0, -0.04),
  "+": () => zoom(1.1), "=": () => zoom(1.1), "-": () => zoom(1 / 1.1), 0: reset, Home: reset,
  "[": actions.previous, "]": actions.next, r: actions.random, " ": actions.turn,
  c: () => set("show", "colour"), d: show("depth"), n: show("normals"), o: show("opacity"),
  f: () => set("parts", state.parts === "foreground" ? "all" : "foreground"),
  s: () => about.strict && set("strict", !state.strict),
  m: () => { $("mixing").open = true; set("mixing", !state.mixing); },
  p: actions.screenshot, v: actions.film, "?": actions.help,
};

function connectKeys() {
  // whoever presses with a hand has the arrow keys for the camera afterwards
  document.addEventListener("click", (event) => {
    const pressed = document.activeElement;
    if (event.detail && pressed?.matches("[type=radio], [type=checkbox], button")) pressed.blur();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const target = event.target;
    if (target.matches("input:not([type]), select")) return;
    // some have a use for these keys themselves
    if (target.matches("[type=range], [type=radio]") && /^(Arrow|Home)/.test(event.key)) return;
    if (target.matches("input, button, summary") && /^( |Enter)$/.test(event.key)) return;
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

async function start() {
  try {
    about = await (await fetch("/api/model")).json();
  } catch {
    document.body.classList.add("lost");
    $("status").textContent = "The viewer does not answer; start it again";
    setTimeout(start, 1500);
    return;
  }
  document.body.classList.remove("lost");
  fillControls();
  readAddress();
  pictures = new Pictures($("canvas"), stages, {
    shown,
    busy: (text) => { $("busy-text").textContent = text; $("busy").hidden = !text; },
    wrong: say,
    lost: (lost) => {
      if (!lost && document.body.classList.contains("lost")) location.reload(); // it may show another model now
      document.body.classList.toggle("lost", lost);
      if (lost) $("status").textContent = "The viewer does not answer; start it again and this page goes on";
    },
  });
  pictures.smooth = state.smooth;
  recorder = new Recorder(about, say);
  connectControls();
  connectKeys();
  changed();
}

start();
