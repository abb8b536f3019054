"use strict";

// The colours of Okabe and Ito, which are safe for colour-blind people; every colour also has its word
// beside it.
const COLOURS = {
  anger: "#d55e00", calm: "#56b4e9", disgust: "#009e73", fear: "#cc79a7", happiness: "#e69f00",
  neutral: "#a8acb0", sadness: "#0072b2", surprise: "#f0e442", boredom: "#b39b7d",
};
const SPARE = ["#88ccaa", "#b7a2e0", "#d9b8a0", "#7fc4c4", "#e0a3a3"];
const FORMS = {
  angry: "anger", bored: "boredom", disgusted: "disgust", fearful: "fear", happy: "happiness",
  joy: "happiness", sad: "sadness", surprised: "surprise",
};
const SILENT = "silence"; // shown for a window without a label
const RATE = 16000; // of recordings that are uploaded
const $ = (id) => document.getElementById(id);

const state = { token: "", limits: null, answer: null, peaks: null, url: "", recorder: null, run: 0, last: null };

function colour(label) {
  if (label === SILENT) return "#c9c4b8";
  const word = label.toLowerCase();
  const known = COLOURS[FORMS[word] ?? word];
  if (known) return known;
  const unknown = Object.keys(state.answer.scores).filter((each) => !COLOURS[FORMS[each.toLowerCase()] ?? each.toLowerCase()]);
  return SPARE[Math.max(0, unknown.indexOf(label)) % SPARE.length];
}

const percent = (score) => (score === null || score === undefined ? "–" : `${Math.round(100 * score)}\u202f%`);
// A model of ratings predicts no label; its values have a scale of their own.
const isAbstained = () => state.answer.label === "" && state.answer.unlike_training && state.answer.model.probabilities !== "";
const isRating = () => state.answer.label === "" && !isAbstained();
const number = (score) => (!isRating() ? percent(score) : score === null || score === undefined ? "–" : score.toFixed(2));
const values = (scores) => Object.entries(scores).map(([name, score]) => `${name} ${number(score)}`).join(", ");
const seconds = (value) => `${value.toFixed(1)} s`;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function say(text) { $("status").textContent = text; }

function complain(text) {
  say("");
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

async function ask(path, options = {}) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (response.ok) return response.json();
  let detail = `The server returned status ${response.status}.`;
  try { detail = (await response.json()).detail ?? detail; } catch { /* not JSON: keep the status */ }
  const error = new Error(detail);
  error.status = response.status;
  throw error;
}

// The model, described before any audio is sent.

async function describe() {
  try {
    const model = await ask("model");
    state.limits = model.limits;
    $("model-name").textContent = model.name;
    $("note").textContent = model.note;
    const { bytes, seconds: most } = model.limits;
    $("limits").textContent = `or drop one here: up to ${most} s and ${Math.floor(bytes / 2 ** 20)} MiB`;
    $("kept").textContent = model.logged
      ? "Your audio is not stored; the prediction is logged, without the file name."
      : "Your audio is processed on this server and not stored.";
    const result = model.card.result ?? {};
    const names = { uar: "mean recall over the emotions (UAR)", accuracy: "accuracy", macro_f1: "macro-F1", ccc: "CCC" };
    const scored = Object.entries(names).filter(([key]) => typeof result[key]?.value === "number");
    if (scored.length) {
      const [key, name] = scored[0];
      const { value, low, high } = result[key];
      const scale = (x) => (key === "ccc" ? x.toFixed(2) : `${Math.round(100 * x)} %`);
      const interval = typeof low === "number" ? ` (95 % interval ${scale(low)} to ${scale(high)})` : "";
      const count = model.labels.length;
      const chance = count && key === "uar" ? ` Chance is ${scale(1 / count)}.` : "";
      const heldOut = (model.card.warnings ?? []).length ? "" : "held-out ";
      const people = result.speakers ? ` on ${result.speakers} ${heldOut}speakers` : "";
      $("scored").textContent = `In its test${people}: ${name} ${scale(value)}${interval}.${chance} ` +
        "Expect lower scores on voices, languages and rooms that differ from its corpus.";
    } else {
      $("scored").textContent = `Its test score: ${model.card.score || "unknown"}.`;
    }
    $("warnings").replaceChildren(...(model.card.warnings ?? []).map((text) => element("li", text)));
    const facts = { Model: model.name, Predicts: model.labels.join(", ") || model.target,
      "Fitted on": model.card.corpus, Protocol: result.split, Probabilities: model.card.probabilities, Licence: model.card.licence, Cite: model.card.citation };
    $("card").replaceChildren(...Object.entries(facts).filter(([, fact]) => typeof fact === "string" && fact)
      .flatMap(([name, fact]) => [element("dt", name), element("dd", fact)]));
    $("token-form").hidden = true;
    return true;
  } catch (error) {
    if (error.status === 401) { $("token-form").hidden = false; if (state.token) complain(error.message); }
    else complain(error.message);
    return false;
  }
}

// From a file or a recording to an answer.

async function recognize(blob, name) {
  const run = ++state.run;
  state.last = [blob, name];
  complain("");
  $("result").hidden = true;
  $("audio").pause();
  if (state.limits && blob.size > state.limits.bytes) {
    complain(`${name} has ${(blob.size / 2 ** 20).toFixed(1)} MiB; the limit of the server is ${Math.floor(state.limits.bytes / 2 ** 20)}.`);
    return;
  }
  say("Analysing …");
  const form = new FormData();
  form.append("audio", blob, name);
  try {
    const [answer, samples] = await Promise.all([
      ask("recognize?window=2&hop=1", { method: "POST", body: form }),
      decode(blob).catch(() => null), // the browser cannot play it: the timeline is shown without sound
    ]);
    if (run !== state.run) return; // another file was chosen meanwhile
    say("");
    show(answer, blob, samples);
  } catch (error) {
    if (run !== state.run) return;
    if (error.status === 401) $("token-form").hidden = false;
    complain(error.status ? error.message : "The server cannot be reached; is it running?");
  }
}

async function decode(blob) {
  const context = new OfflineAudioContext(1, 1, RATE);
  return (await context.decodeAudioData(await blob.arrayBuffer())).getChannelData(0);
}

function show(answer, blob, samples) {
  state.answer = answer;
  URL.revokeObjectURL(state.url);
  state.url = URL.createObjectURL(blob);
  $("audio").src = state.url;
  $("player").classList.toggle("mute", !samples);
  $("play").disabled = !samples;
  $("seek").max = answer.seconds;
  state.peaks = samples;
  $("label").textContent = answer.label || (isRating() ? values(answer.scores) : "(no answer)");
  const ranked = Object.entries(answer.scores).sort((a, b) => (b[1] ?? -1) - (a[1] ?? -1));
  const second = ranked.find(([label]) => label !== answer.label);
  const own = answer.scores[answer.label];
  $("closeness").textContent = second && own !== undefined
    ? `Score ${percent(own)}${own - second[1] < 0.15 ? `, barely above ${second[0]} with ${percent(second[1])}: consider it undecided` : `; next is ${second[0]} with ${percent(second[1])}`}.`
    : "";
  if (answer.unlike_training) $("closeness").append(" The recording is unlike all that the model was trained on: its score does not apply.");
  if (answer.trained_on) $("closeness").append(" The model was trained on this very recording, so its score says nothing about other recordings.");
  $("scores").replaceChildren(...ranked.map(([label, score]) => {
    const row = element("li");
    const track = element("span", undefined, "track");
    const fill = element("div", undefined, "fill");
    track.classList.toggle("empty", isRating());
    fill.style.width = `${100 * Math.min(1, Math.max(0, score ?? 0))}%`;
    fill.style.background = colour(label);
    track.append(fill);
    const name = element("span", undefined, "name");
    const swatch = element("i");
    swatch.style.background = colour(label);
    name.append(swatch, label);
    row.append(name, track, element("span", number(score), "value"));
    return row;
  }));
  $("compare").hidden = isRating();
  $("result").hidden = false;
  timeline(answer);
  seekTo(0);
  draw();
  $("result").scrollIntoView({ block: "nearest", behavior: "auto" });
}

// Windows overlap: each is shown around its middle, up to halfway to the next.
function spans(answer) {
  const parts = answer.timeline.length ? answer.timeline : [{ start: 0, end: answer.seconds, label: answer.label, scores: answer.scores }];
  const middle = (part) => (part.start + part.end) / 2;
  const name = ({ label, scores }) => label || (Object.keys(scores).length ? number(Object.values(scores)[0]) : SILENT);
  return parts.map((part, i) => ({
    ...part,
    label: name(part),
    from: i ? (middle(parts[i - 1]) + middle(part)) / 2 : 0,
    to: i + 1 < parts.length ? (middle(part) + middle(parts[i + 1])) / 2 : answer.seconds,
  }));
}

// Neighbours with the same label are one button.
function timeline(answer) {
  const box = $("timeline");
  const width = box.clientWidth;
  state.spans = spans(answer);
  state.runs = [];
  for (const span of state.spans) {
    const last = state.runs[state.runs.length - 1];
    if (last?.label === span.label) last.to = span.to;
    else state.runs.push({ label: span.label, from: span.from, to: span.to });
  }
  box.replaceChildren(...state.runs.map((run, i) => {
    const made = element("button", run.label);
    made.type = "button";
    made.tabIndex = i ? -1 : 0;
    const share = (run.to - run.from) / answer.seconds;
    made.style.flexBasis = `${100 * share}%`;
    made.style.background = colour(run.label);
    made.classList.toggle("dark", colour(run.label) === COLOURS.sadness);
    made.classList.toggle("narrow", share * width < 8.5 * run.label.length + 12);
    made.title = `${run.label}, ${seconds(run.from)} to ${seconds(run.to)}`;
    made.setAttribute("aria-label", made.title);
    made.addEventListener("click", () => { focusSegment(i); seekTo(run.from); if (!$("play").disabled) $("audio").play(); });
    return made;
  }));
  $("axis").replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((at) => element("span", seconds(at * answer.seconds))));
}

function focusSegment(i) {
  [...$("timeline").children].forEach((each, k) => { each.tabIndex = k === i ? 0 : -1; });
  $("timeline").children[i].focus();
}

function draw() {
  const canvas = $("wave");
  if ($("result").hidden || !state.answer) return;
  const scale = window.devicePixelRatio || 1;
  const width = canvas.width = Math.round(canvas.clientWidth * scale);
  const height = canvas.height = Math.round(canvas.clientHeight * scale);
  const pen = canvas.getContext("2d");
  const soft = getComputedStyle(document.documentElement).getPropertyValue("--soft");
  if (!state.peaks) {
    pen.fillStyle = soft;
    pen.font = `${14 * scale}px system-ui, sans-serif`;
    pen.fillText("This browser cannot play the file; the timeline is from the server.", 0, height / 2);
    return;
  }
  const bar = Math.max(2, Math.round(3 * scale));
  const count = Math.floor(width / bar);
  const levels = new Float32Array(count);
  const step = state.peaks.length / count;
  for (let i = 0; i < count; i++) {
    const end = Math.min(state.peaks.length, Math.ceil((i + 1) * step));
    for (let k = Math.floor(i * step); k < end; k++) levels[i] = Math.max(levels[i], Math.abs(state.peaks[k]));
  }
  const most = levels.reduce((a, b) => Math.max(a, b), 1e-6);
  levels.forEach((level, i) => {
    const at = ((i + 0.5) / count) * state.answer.seconds;
    const span = state.spans.find((each) => at < each.to) ?? state.spans[state.spans.length - 1];
    const tall = Math.max(scale, (level / most) * height * 0.94);
    pen.fillStyle = colour(span.label);
    pen.fillRect(i * bar, (height - tall) / 2, Math.max(1, bar - scale), tall);
  });
}

// Playing.

function position() {
  const audio = $("audio");
  const at = audio.currentTime || 0;
  const all = state.answer?.seconds || 1;
  $("head").style.left = `${100 * Math.min(1, at / all)}%`;
  $("seek").value = at;
  $("seek").setAttribute("aria-valuetext", seconds(at));
  $("clock").textContent = `${seconds(at)} of ${seconds(all)}`;
  const now = state.runs?.findIndex((run) => at < run.to) ?? -1;
  [...$("timeline").children].forEach((each, i) => each.setAttribute("aria-current", String(i === now)));
  const span = state.spans?.find((each) => at < each.to);
  const text = span && (isRating() ? values(span.scores) : span.label === SILENT ? "" : `${span.label} ${percent(span.scores[span.label])}`);
  const shown = span ? `${text || SILENT} around here` : "";
  if ($("segment").textContent !== shown) $("segment").textContent = shown;
  if (!audio.paused) requestAnimationFrame(position);
}

function seekTo(at) {
  $("audio").currentTime = at;
  position();
}

// Recording: the browser's format is converted to WAV here, which every server decodes.

async function record() {
  if (state.recorder) { state.recorder.stop(); return; }
  complain("");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  } catch (error) {
    complain(navigator.mediaDevices ? `The microphone cannot be used: ${error.message}.` : "Browsers allow the microphone only on pages of this machine or over HTTPS.");
    return;
  }
  const parts = [];
  const recorder = state.recorder = new MediaRecorder(stream);
  const began = Date.now();
  const most = state.limits?.seconds ?? 60;
  const clock = setInterval(() => {
    const passed = (Date.now() - began) / 1000;
    say(`Recording … ${passed.toFixed(0)} s`);
    if (passed > most - 1 && recorder.state === "recording") recorder.stop();
  }, 250);
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = async () => {
    clearInterval(clock);
    state.recorder = null;
    $("record").textContent = "Record";
    $("record").setAttribute("aria-pressed", "false");
    stream.getTracks().forEach((track) => track.stop());
    try {
      recognize(wav(await decode(new Blob(parts, { type: recorder.mimeType }))), "recording.wav");
    } catch {
      complain("The recording is empty or unreadable; record a little longer.");
    }
  };
  recorder.start();
  $("record").textContent = "Stop";
  $("record").setAttribute("aria-pressed", "true");
}

function wav(samples) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, word) => [...word].forEach((sign, i) => view.setUint8(at + i, sign.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true); view.setUint32(28, 2 * RATE, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, value)) * 32767, true));
  return new Blob([view], { type: "audio/wav" });
}

function download() {
  const link = element("a");
  const url = URL.createObjectURL(new Blob([JSON.stringify(state.answer, null, 1)], { type: "application/json" }));
  link.href = url;
  link.download = `${state.answer.source.replace(/\.[^.]*$/, "")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// Events.

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  const file = $("file").files[0];
  if (file) recognize(file, file.name);
  $("file").value = ""; // so that the same file can be chosen again
});
$("record").addEventListener("click", record);
$("download").addEventListener("click", download);
$("play").addEventListener("click", () => ($("audio").paused ? $("audio").play() : $("audio").pause()));
for (const name of ["play", "pause", "ended", "timeupdate"]) {
  $("audio").addEventListener(name, () => { $("play").textContent = $("audio").paused ? "Play" : "Pause"; position(); });
}
$("seek").addEventListener("input", () => seekTo(Number($("seek").value)));
$("timeline").addEventListener("keydown", (event) => {
  const all = [...$("timeline").children];
  const at = all.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
  if (to === undefined || !all[to]) return;
  event.preventDefault();
  focusSegment(to);
  seekTo(state.runs[to].from);
});
$("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  state.token = $("token").value.trim();
  complain("");
  if (await describe() && state.last) recognize(...state.last);
});
for (const name of ["dragover", "dragenter"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, () => $("drop").classList.remove("over"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const file = event.dataTransfer?.files[0];
  if (file) recognize(file, file.name);
});
window.addEventListener("resize", () => { if (state.answer && !$("result").hidden) { timeline(state.answer); draw(); position(); } });
describe();
