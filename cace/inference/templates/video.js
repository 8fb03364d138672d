"use strict";
const at = (id) => document.getElementById(id);
const data = JSON.parse(at("data").textContent);
const [events, truth] = [data.events, data.truth].map((spans) =>
  spans?.map(([category, start, end]) => ({ category, start, end })),
);
const video = at("video"), map = at("map"), mapSwitch = at("switch"), lanes = at("lanes");
const rows = document.querySelectorAll("#events tbody tr");
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const DARKEST = 0.75, LIGHTEST = 0.3; // how much of black and white covers the picture
const levels = data.attention && Uint8Array.from(atob(data.attention.levels), (c) => c.charCodeAt(0));
let position = 0; // seconds from the start of the video
let origin; // what the browser's clock shows there; known once the video is there
let target; // where the last seek shall end, on that clock
let shown = -1; // the second that map and details show
let current = -1; // index of the event at the playhead

const percent = (share) => `${Math.round(100 * share)} %`;
const middle = (second) => (second + Math.min(second + 1, data.seconds)) / 2; // the last may be cut
const covering = (spans, second) => spans.filter((s) => s.start <= middle(second) && middle(second) < s.end);
const named = (spans) => spans.map((span) => span.category).join(", ");
const share = (seconds) => `${(100 * seconds) / data.seconds}%`; // of the timeline's width

function create(tag, text, style = {}) {
  const element = Object.assign(document.createElement(tag), { textContent: text });
  for (const [name, value] of Object.entries(style)) element.style.setProperty(name, value);
  return element;
}

function clock(seconds) {
  const total = Math.floor(seconds + 1e-3);
  const [hours, minutes] = [Math.floor(total / 3600), Math.floor(total / 60) % 60];
  const tail = String(total % 60).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

/* Position: that of the video, or of the playhead if no video plays. */

function go(seconds) {
  const wanted = Math.min(Math.max(seconds, 0), data.seconds);
  if (at("broken").hidden && origin !== undefined) {
    target = origin + wanted;
    video.currentTime = target;
  }
  show(wanted);
}

function begin() {
  // Some browsers show a file's own times, which may begin late, and others begin at 0.
  origin ??= video.currentTime > data.starts_at / 2 ? data.starts_at : 0;
  if (position) go(position); // the reader was faster than the video
}

function show(seconds) {
  position = Math.min(seconds, data.seconds);
  const place = still ? Math.floor(position + 1e-3) : position;
  at("playhead").style.left = share(place);
  const x = (position / data.seconds) * lanes.clientWidth, scroller = at("scroller");
  if (x < scroller.scrollLeft || x > scroller.scrollLeft + scroller.clientWidth) {
    scroller.scrollLeft = x - scroller.clientWidth / 10;
  }
  const second = Math.min(Math.floor(position + 1e-3), data.both.relevance.length - 1);
  if (second !== shown) describe(second);
}

function follow() {
  if (origin !== undefined) show(Math.max(0, video.currentTime - origin));
  if (!video.paused) requestAnimationFrame(follow);
}

function toEvent(direction) {
  const starts = events.map((event) => event.start);
  const start = direction > 0 ? starts.find((s) => s > position + 0.01) : starts.findLast((s) => s < position - 0.5);
  if (start !== undefined) jump(start);
}

function jump(start) {
  go(start);
  at("announcement").textContent = lanes.getAttribute("aria-valuetext");
}

/* The second at the playhead, as text and as a map. */

function describe(second) {
  shown = second;
  const event = covering(events, second)[0];
  const text = event?.category ?? "no event";
  at("second").textContent = `At ${clock(second)}: ${text}`;
  at("clock").textContent = clock(second);
  lanes.setAttribute("aria-valuenow", second);
  lanes.setAttribute("aria-valuetext", `${clock(second)}, ${text}, relevance ${percent(data.both.relevance[second])}`);
  for (const way of ["both", "without_sound", "without_picture"]) compare(way, second, event);
  for (const [name, values] of Object.entries(data.lanes)) at(`lane-${name}`).textContent = percent(values[second]);
  if (truth) at("truth").textContent = named(covering(truth, second)) || "no event";
  mark(events.indexOf(event));
  if (levels) lookAt(second);
}

function compare(way, second, event) {
  const box = at(way), { relevance, best } = data[way];
  const guess = relevance[second] > data.threshold ? data.categories[best[second][0][0]] : undefined;
  const category = way === "both" ? event?.category : guess;
  const points = Math.round(100 * relevance[second]) - Math.round(100 * data.both.relevance[second]);
  const change = points ? `: ${Math.abs(points)} points ${points < 0 ? "less" : "more"}` : "";
  const since = way === "both" ? "" : category === event?.category ? "Still: " : "Instead: ";
  box.querySelector(".decision").textContent = since + (category ?? "no event");
  const bar = (tag, text, value) => create(tag, text, { "--share": `${100 * value}%` });
  const sure = bar("span", `Relevance ${percent(relevance[second])}${change}`, relevance[second]);
  box.querySelector(".relevance").replaceChildren(sure);
  const items = best[second].map(([index, value]) => bar("li", `${data.categories[index]} ${percent(value)}`, value));
  box.querySelector("ol").replaceChildren(...items);
}

function mark(index) {
  if (index === current) return;
  rows[current]?.removeAttribute("aria-current");
  current = index;
  if (!rows[index]) return;
  rows[index].setAttribute("aria-current", "true");
  const box = rows[index].closest(".rows"); // not scrollIntoView, which would move the page
  const below = rows[index].getBoundingClientRect().top - box.getBoundingClientRect().top;
  box.scrollTop += below - box.clientHeight / 2;
}

function lookAt(second) {
  const { width, height, peaks } = data.attention;
  const cells = levels.subarray(second * width * height, (second + 1) * width * height);
  const peak = cells.indexOf(255), x = ((peak % width) + 0.5) / width, y = (Math.floor(peak / width) + 0.5) / height;
  const where = `${["top", "middle", "bottom"][Math.floor(3 * y)]} ${["left", "centre", "right"][Math.floor(3 * x)]}`;
  at("attention").textContent = `most at the ${where}, ${peaks[second]} times the average`;
  map.hidden = !mapSwitch.checked || !video.videoWidth;
  if (map.hidden) return;

  // The picture as it is shown, within the black bars; the model sees a part of it.
  const scale = Math.min(video.clientWidth / video.videoWidth, video.clientHeight / video.videoHeight);
  const shownSize = [video.videoWidth * scale, video.videoHeight * scale];
  const corner = [(video.clientWidth - shownSize[0]) / 2, (video.clientHeight - shownSize[1]) / 2];
  const [left, top, wide, high] = data.view;
  map.width = Math.round(wide * shownSize[0]);
  map.height = Math.round(high * shownSize[1]);
  map.style.left = `${video.offsetLeft + corner[0] + left * shownSize[0]}px`;
  map.style.top = `${video.offsetTop + corner[1] + top * shownSize[1]}px`;

  // From black through transparent to white, so that it can be read on dark and on bright pictures.
  const grid = Object.assign(document.createElement("canvas"), { width, height });
  const veil = new ImageData(width, height);
  cells.forEach((level, cell) => {
    const light = level / 127.5 - 1;
    veil.data.fill(light < 0 ? 0 : 255, 4 * cell, 4 * cell + 3);
    veil.data[4 * cell + 3] = 255 * (light < 0 ? -DARKEST * light : LIGHTEST * light);
  });
  grid.getContext("2d").putImageData(veil, 0, 0);
  const brush = map.getContext("2d");
  brush.imageSmoothingQuality = "high";
  brush.drawImage(grid, 0, 0, map.width, map.height);
  for (const [colour, line] of [["#000", 5], ["#fff", 2]]) {
    brush.strokeStyle = colour;
    brush.lineWidth = line;
    brush.beginPath();
    brush.arc(x * map.width, y * map.height, (0.3 * map.width) / width, 0, 2 * Math.PI);
    brush.stroke();
  }
}

/* The timeline: curves, and an axis for the part in view. */

function draw() {
  for (const path of document.querySelectorAll("[data-curve]")) {
    const values = data[path.dataset.curve]?.relevance ?? data.lanes[path.dataset.curve];
    const steps = values.map((value, second) => `V${(1 - value).toFixed(3)}H${Math.min(second + 1, data.seconds)}`);
    path.setAttribute("d", `M0 1${steps.join("")}V1Z`);
  }
  for (const [name, spans] of Object.entries({ events, truth })) {
    const boxes = spans?.map(({ category, start, end }) => {
      const box = create("div", "", { left: share(start), width: share(end - start) });
      box.append(create("span", category));
      return box;
    });
    document.querySelector(`[data-spans=${name}]`)?.append(...boxes);
  }
  const stretches = [7200, 1800, 600, 120, 30].filter((span) => span < data.seconds);
  at("zoom").hidden = !stretches.length;
  at("stretch").append(
    new Option("all", data.seconds),
    ...stretches.map((span) => new Option(span < 120 ? `${span} seconds` : `${span / 60} minutes`, span)),
  );
}

function scaleTo(span) {
  lanes.style.width = `${(100 * data.seconds) / span}%`;
  const room = (60 * data.seconds) / lanes.clientWidth; // seconds that a label needs
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800].find((s) => s > room) ?? 3600;
  const ticks = Array.from({ length: Math.ceil(data.seconds / step) }, (_, index) => index * step);
  at("axis").replaceChildren(...ticks.map((second) => create("span", clock(second), { left: share(second) })));
  at("scroller").scrollLeft = (position / data.seconds) * lanes.clientWidth - at("scroller").clientWidth / 2;
}

/* Controls. */

// play() fails if the video is paused before it has begun; that is no error.
const toggle = () => (video.paused ? video.play().catch(() => {}) : video.pause());
const SLIDER_KEYS = {
  ArrowRight: () => go(position + 1),
  ArrowUp: () => go(position + 1),
  ArrowLeft: () => go(position - 1),
  ArrowDown: () => go(position - 1),
  PageDown: () => go(position + 10),
  PageUp: () => go(position - 10),
  Home: () => go(0),
  End: () => go(data.seconds),
};
const KEYS = {
  " ": () => at("broken").hidden && toggle(),
  n: () => toEvent(1),
  p: () => toEvent(-1),
  m: () => mapSwitch?.click(),
};

function press(key) {
  const action = SLIDER_KEYS[key.key] ?? KEYS[key.key.toLowerCase()];
  if (!action || key.ctrlKey || key.altKey || key.metaKey) return;
  key.preventDefault();
  action();
}

function point(mouse) {
  const box = lanes.getBoundingClientRect();
  go(((mouse.clientX - box.left) / box.width) * data.seconds);
}

function giveUp() {
  at("broken").hidden = false;
  video.parentElement.hidden = true;
  for (const id of ["play", "mute"]) at(id).disabled = true;
  if (mapSwitch) mapSwitch.disabled = true;
}

video.controls = false; // they would be under the map
lanes.addEventListener("keydown", press);
video.addEventListener("keydown", press);
lanes.addEventListener("click", point);
lanes.addEventListener("pointermove", (mouse) => mouse.pointerType === "mouse" && mouse.buttons === 1 && point(mouse));
video.addEventListener("click", toggle);
at("play").addEventListener("click", toggle);
at("mute").addEventListener("click", () => (video.muted = !video.muted));
at("next").addEventListener("click", () => toEvent(1));
at("previous").addEventListener("click", () => toEvent(-1));
mapSwitch?.addEventListener("change", () => lookAt(shown));
at("stretch").addEventListener("change", (choice) => scaleTo(Number(choice.target.value)));
rows.forEach((row, index) => row.querySelector("button").addEventListener("click", () => jump(events[index].start)));

video.addEventListener("play", follow);
video.addEventListener("seeked", follow);
video.addEventListener("volumechange", () => at("mute").setAttribute("aria-pressed", video.muted));
video.addEventListener("play", () => (at("play").textContent = "Pause"));
video.addEventListener("pause", () => (at("play").textContent = "Play"));
video.addEventListener("pause", () => (at("announcement").textContent = lanes.getAttribute("aria-valuetext")));
video.addEventListener("loadedmetadata", () => (video.videoWidth ? describe(shown) : giveUp()));
video.addEventListener("loadeddata", begin);
// A browser may learn the length of a file only while it reads it, and not seek beyond that before.
video.addEventListener("durationchange", () => {
  if (video.paused && video.currentTime < target - 0.01) video.currentTime = target;
});
video.addEventListener("error", giveUp);
if (video.error) giveUp();
if (video.readyState > 1) begin();

draw();
show(0);
scaleTo(data.seconds);
new ResizeObserver(() => levels && lookAt(shown)).observe(video);
new ResizeObserver(() => scaleTo(Number(at("stretch").value))).observe(at("scroller"));
