"use strict";
// The attention explorer: draws what is in #explorer-data, and follows the video, or without one the clock.
// All text is set as text, never as HTML.
(() => {
  const root = document.getElementById("explorer");
  const { clips, files } = JSON.parse(document.getElementById("explorer-data").textContent);
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const video = part("video"), slider = part("slider");
  const ARROW = 0.1, LONG_ARROW = 1; // seconds

  let clip = null, time = 0, hovered = null, playing = false, last = 0, playable = false, address = "";
  let shown = new Set(); // hops, from 0
  let lanes = [];

  // --- small helpers ---

  function make(tag, attributes = {}, ...children) {
    const drawn = ["svg", "path", "line"].includes(tag);
    const element = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const unpack = ({ scale, data }) => Array.from(new Uint16Array(bytesOf(data).buffer), (n) => n * scale);
  const percent = (share) => `${Math.round(100 * share)}\u202f%`;
  const multiple = (value) => `${value.toFixed(value < 100 ? 2 : 0)}×`;
  const within = (value, low, high) => Math.min(Math.max(value, low), high);
  const speakerOf = (c) => c.speaker === null ? "speaker unknown" : `speaker ${c.speaker}`;
  const hopClass = (hop) => `hop${hop % 4}${hop >= 4 ? " dashed" : ""}`;

  // A frame lasts to the middle between it and its neighbours, and no longer than the stream's usual step on either side:
  // where nothing was observed, nothing is shown.
  function spans(times, end) {
    const steps = times.slice(1).map((t, i) => t - times[i]).sort((a, b) => a - b);
    const usual = steps[steps.length >> 1] || end;
    return times.map((t, i) => {
      const before = i ? (t - times[i - 1]) / 2 : usual / 2;
      const after = i < times.length - 1 ? (times[i + 1] - t) / 2 : usual / 2;
      return [Math.max(t - Math.min(before, usual), 0), Math.min(t + Math.min(after, usual), end)];
    });
  }

  function streamOf(data, end) {
    const times = unpack(data.times), flat = unpack(data.weights);
    const weights = data.gates.map((_, hop) => flat.slice(hop * times.length, (hop + 1) * times.length));
    const most = flat.reduce((a, b) => Math.max(a, b), 0);
    return { ...data, times, weights, spans: spans(times, end), top: Math.max(2, 1.08 * most) };
  }

  const frameAt = (stream, t) => {
    const k = stream.spans.findLastIndex(([from]) => from <= t);
    return k >= 0 && t <= stream.spans[k][1] ? k : -1;
  };

  // --- drawing a clip ---

  function stepPath(stream, values, end, area) {
    let path = "", until = -1;
    stream.spans.forEach(([from, to], k) => {
      const [x0, x1] = [from, to].map((t) => (1000 * t / end).toFixed(1));
      const y = (100 - 100 * values[k] / stream.top).toFixed(1);
      const goesOn = from - until < 1e-3 * end && until >= 0;
      if (area) path += `M${x0} 100V${y}H${x1}V100Z`;
      else path += `${goesOn ? `V${y}` : `M${x0} ${y}`}H${x1}`;
      until = to;
    });
    return path;
  }

  function wavePath(recording, end) {
    const peaks = unpack(recording.waveform), loudest = Math.max(...peaks, 1e-6);
    const x = (i) => (1000 * (i + 0.5) * recording.seconds / peaks.length / end).toFixed(1);
    const edge = (sign) => peaks.map((p, i) => `${x(i)} ${(50 - sign * 48 * p / loudest).toFixed(1)}`);
    return `M${edge(1).join("L")}L${edge(-1).reverse().join("L")}Z`;
  }

  function plot(stream) {
    const peaks = stream.weights.map((values, hop) => {
      const k = values.indexOf(values.reduce((a, b) => Math.max(a, b), 0));
      return `hop ${hop + 1} looks most at ${stream.times[k].toFixed(2)} s, ${multiple(values[k])}`;
    });
    const svg = make("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", class: "plot", role: "img",
      "aria-label": `Attention to ${stream.name} over time: ${peaks.join("; ")}` });
    if (stream.modality === "audio" && clip.recording.waveform) {
      svg.append(make("path", { d: wavePath(clip.recording, clip.end), class: "wave" }));
    }
    const even = 100 - 100 / stream.top;
    svg.append(make("line", { x1: 0, x2: 1000, y1: even, y2: even, class: "even" }));
    stream.weights.forEach((values, hop) => svg.append(
      make("path", { d: stepPath(stream, values, clip.end, true), class: `area ${hopClass(hop)}`, "data-hop": hop }),
      make("path", { d: stepPath(stream, values, clip.end, false), class: `curve ${hopClass(hop)}`, "data-hop": hop }),
    ));
    return svg;
  }

  function hopTable(shares, what, readout) {
    const rows = shares.map((share, hop) => make("tr", { "data-hop": hop },
      make("th", { scope: "row" }, make("span", { class: `swatch ${hopClass(hop)}` }), `${hop + 1}`),
      make("td", { title: `${what} of hop ${hop + 1}: ${percent(share)}` },
        make("span", { class: "bar" }, make("span", { class: hopClass(hop), style: `width:${100 * share}%` })),
        make("span", { class: "share-of" }, percent(share))),
      ...(readout ? [make("td", { class: "weight" })] : []),
    ));
    return make("table", { class: "hops" }, make("tbody", {}, ...rows));
  }

  function lane(stream) {
    const scale = make("span", { class: "scale" }, `${stream.top.toFixed(1)}×`);
    const cell = make("div", { class: "time" }, plot(stream), scale);
    let words = [], frames = [];
    if (stream.tokens) {
      const title = (word, k) => `${word}, ${stream.times[k].toFixed(2)} s`;
      words = stream.tokens.map((word, k) => make("span", { class: "word", title: title(word, k) }, word));
      cell.append(make("div", { class: "words" }, ...words));
    }
    if (stream.modality === "vision" && clip.frames.some(Boolean)) {
      frames = clip.frames.map((uri) => uri ? make("img", { src: uri, alt: "" }) : make("span"));
      cell.append(make("div", { class: "frames", style: `width:${100 * clip.frames_end / clip.end}%` }, ...frames));
    }
    cell.append(make("span", { class: "ghost", hidden: "" }), make("span", { class: "cursor" }));
    const name = make("div", { class: "name" }, make("strong", {}, stream.name));
    if (stream.name !== stream.modality) name.append(make("span", {}, stream.modality));
    const table = hopTable(stream.gates, "Gate", true);
    const element = make("div", { class: "lane", "data-stream": stream.name }, name, cell, table);
    return { stream, element, cell, words, frames, weights: [...table.querySelectorAll(".weight")] };
  }

  function answers() {
    const most = Math.max(1e-9, ...(clip.regression ? [...clip.values, ...clip.truth] : [1]));
    const best = clip.values.indexOf(Math.max(...clip.values));
    return clip.names.map((name, c) => {
      const share = (value) => `${within(100 * value / most, 0, 100).toFixed(1)}%`;
      const isTrue = !clip.regression && name === clip.target;
      const track = make("span", { class: "bar" }, make("span", { style: `width:${share(clip.values[c])}` }));
      if (clip.regression) {
        track.append(make("i", { class: "ring", style: `left:${share(clip.truth[c])}`, title: `true: ${clip.truth[c]}` }));
      }
      const classes = `${isTrue ? "true" : ""} ${clip.regression || c === best ? "best" : ""}`;
      const label = make("span", { class: "class" }, name, ...(isTrue ? [make("em", {}, "true")] : []));
      const value = clip.regression ? clip.values[c].toFixed(2) : percent(clip.values[c]);
      return make("li", { class: classes }, label, track, make("span", { class: "value" }, value));
    });
  }

  // Words stand at their times, each in the first row that has room for it.
  function placeWords({ cell, words, stream }) {
    const width = cell.clientWidth, ends = [], height = 25;
    words.forEach((word, k) => {
      const [from, to] = stream.spans[k].map((t) => t / clip.end * width);
      word.style.minWidth = `${Math.min(Math.max(to - from - 2, 6), width)}px`;
      const size = Math.min(word.offsetWidth, width), left = within(from + 1, 0, width - size);
      let row = ends.findIndex((end) => end <= left);
      if (row < 0) row = ends.length;
      ends[row] = left + size;
      word.style.left = `${left}px`;
      word.style.top = `${row * height}px`;
    });
    if (words.length) words[0].parentElement.style.height = `${ends.length * height}px`;
  }

  // --- what changes as one looks ---

  function showHops() {
    root.querySelectorAll("[data-hop]").forEach((e) => e.classList.toggle("off", !shown.has(Number(e.dataset.hop))));
    const chosen = Math.max(-1, ...shown); // shades the words and the area
    root.querySelectorAll(".area").forEach((e) => e.classList.toggle("off", Number(e.dataset.hop) !== chosen));
    root.querySelectorAll(".curve").forEach((e) => e.classList.toggle("heavy", Number(e.dataset.hop) === chosen));
    for (const { words, stream } of lanes) {
      const values = stream.weights[chosen] || [];
      words.forEach((word, k) => {
        word.style.setProperty("--shade", `${chosen < 0 ? 0 : Math.round(55 * values[k] / stream.top)}%`);
        word.className = `word ${chosen < 0 ? "" : hopClass(chosen)}`;
      });
    }
    showTime();
  }

  function showTime() {
    const at = hovered ?? time, left = (t) => `${(100 * t / clip.end).toFixed(3)}%`;
    for (const { stream, cell, words, frames, weights } of lanes) {
      cell.querySelector(".cursor").style.left = left(time);
      const ghost = cell.querySelector(".ghost");
      ghost.hidden = hovered === null;
      ghost.style.left = left(at);
      const k = frameAt(stream, at);
      weights.forEach((td, hop) => { td.textContent = k < 0 ? "–" : multiple(stream.weights[hop][k]); });
      words.forEach((word, i) => word.classList.toggle("now", i === k));
      frames.forEach((frame, i) => frame.classList.toggle("now", i === Math.floor(frames.length * at / clip.frames_end)));
    }
    part("at").textContent = `at ${at.toFixed(2)} s`;
    part("clock").textContent = `${time.toFixed(2)} / ${clip.end.toFixed(2)} s`;
    slider.value = time;
    slider.setAttribute("aria-valuetext", `${time.toFixed(2)} seconds`);
  }

  function seek(t) {
    time = within(Number.isFinite(t) ? t : 0, 0, clip.end);
    if (playable) video.currentTime = time;
    showTime();
  }

  function setPlaying(yes) {
    playing = yes;
    part("play").textContent = yes ? "Pause" : "Play";
    if (!yes) return video.pause();
    if (time >= clip.end - 0.02 || (playable && video.ended)) seek(0);
    last = performance.now();
    // A browser may refuse sound before the reader has touched the page.
    if (playable) video.play().catch((error) => { if (error.name === "NotAllowedError") setPlaying(false); });
    requestAnimationFrame(tick);
  }

  function tick(now) {
    if (!playing) return;
    time = Math.min(playable ? video.currentTime : time + Math.max(now - last, 0) / 1000, clip.end);
    last = now;
    showTime();
    if (time >= clip.end || (playable && video.ended)) setPlaying(false);
    else requestAnimationFrame(tick);
  }

  function load(file) {
    video.removeAttribute("src");
    video.load();
    URL.revokeObjectURL(address);
    playable = file !== undefined;
    video.hidden = !playable || files[file].kind.startsWith("audio");
    if (!playable) return;
    address = URL.createObjectURL(new Blob([bytesOf(files[file].content)], { type: files[file].kind }));
    video.src = address;
  }

  function open(index) {
    setPlaying(false);
    clip = clips[index];
    time = 0;
    hovered = null;
    [...part("clips").children].forEach((card, i) => card.setAttribute("aria-pressed", i === index));
    load(clip.recording.file);
    slider.max = clip.end;
    part("title").textContent = clip.id;
    part("who").textContent = speakerOf(clip);
    part("note").textContent = clip.recording.note || "";
    part("values-are").textContent =
      clip.regression ? "Predicted intensity; the ring is the true one." : "Probability of each class.";
    part("values").replaceChildren(...answers());
    lanes = clip.streams.map((data) => lane(streamOf(data, clip.end)));
    part("lanes").replaceChildren(...lanes.map((l) => l.element));
    if (clip.updates) {
      part("lanes").append(make("div", { class: "lane memory" },
        make("div", { class: "name" }, make("strong", {}, "memory")),
        make("div", { class: "time fine" }, "How much of what it remembers each hop rewrites."),
        hopTable(clip.updates, "Update", false)));
    }
    const hops = clip.streams[0].gates.length;
    shown = new Set(Array(hops).keys());
    part("hops").replaceChildren(...[...shown].map((hop) => {
      const button = make("button", { type: "button", class: "toggle", "aria-pressed": "true" },
        make("span", { class: `swatch ${hopClass(hop)}` }), `hop ${hop + 1}`);
      button.addEventListener("click", () => toggle(hop));
      return button;
    }));
    lanes.forEach(placeWords);
    showHops();
  }

  function toggle(hop) {
    if (!shown.delete(hop)) shown.add(hop);
    [...part("hops").children].forEach((button, h) => button.setAttribute("aria-pressed", shown.has(h)));
    showHops();
  }

  // --- what the reader does ---

  function card(c) {
    const lines = [make("strong", {}, c.id), make("span", {}, speakerOf(c))];
    const right = c.prediction === c.target;
    if (c.regression) lines.push(make("span", {}, `most: ${c.prediction}`));
    else {
      lines.push(make("span", {}, `true: ${c.target}`),
        make("span", { class: right ? "right" : "wrong" }, `said: ${c.prediction} ${right ? "✓" : "✗"}`));
    }
    if (new Set(clips.map((other) => other.run)).size > 1) lines.unshift(make("span", { class: "run" }, c.run));
    const picture = c.frames[c.frames.length >> 1];
    const button = make("button", { type: "button", class: "card", title: c.id, "aria-pressed": "false" },
      ...(picture ? [make("img", { src: picture, alt: "" })] : []), make("span", { class: "lines" }, ...lines));
    button.addEventListener("click", () => open(clips.indexOf(c)));
    return button;
  }

  function pointed(event) {
    const cell = event.target.closest?.(".lane:not(.memory) .time");
    if (!cell) return null;
    const box = cell.getBoundingClientRect();
    return within((event.clientX - box.left) / box.width, 0, 1) * clip.end;
  }

  part("lanes").addEventListener("pointermove", (event) => {
    const t = pointed(event);
    if (t !== null && event.buttons & 1) seek(t);
    hovered = event.pointerType === "mouse" ? t : null;
    showTime();
  });
  part("lanes").addEventListener("pointerleave", () => { hovered = null; showTime(); });
  part("lanes").addEventListener("pointerdown", (event) => { const t = pointed(event); if (t !== null) seek(t); });
  part("play").addEventListener("click", () => setPlaying(!playing));
  slider.addEventListener("input", () => seek(Number(slider.value)));
  video.addEventListener("click", () => setPlaying(!playing));
  video.addEventListener("error", () => {
    if (!playable) return;
    playable = false;
    video.hidden = true;
    part("note").textContent = "This browser can't play the recording.";
  });
  root.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? LONG_ARROW : ARROW;
    const moves = { ArrowLeft: time - step, ArrowRight: time + step, Home: 0, End: clip.end };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) seek(moves[event.key]);
    else if (event.key === " " && event.target.tagName !== "BUTTON") setPlaying(!playing);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(() => lanes.forEach(placeWords)).observe(part("lanes"));

  // #clip=2&t=1.25&hops=1,3&play opens the page at a moment.
  function follow() {
    const asked = new URLSearchParams(location.hash.slice(1));
    open(within(Math.floor(Number(asked.get("clip") || 1)) || 1, 1, clips.length) - 1);
    if (asked.has("hops")) {
      const wanted = new Set(asked.get("hops").split(",").map((hop) => Number(hop) - 1));
      [...shown].filter((hop) => !wanted.has(hop)).forEach(toggle);
    }
    seek(Number(asked.get("t")));
    if (asked.has("play")) setPlaying(true);
    if (location.hash.length > 1) root.scrollIntoView();
  }

  part("clips").append(...clips.map(card));
  root.hidden = false;
  window.addEventListener("hashchange", follow);
  follow();
})();
