// The last day of one worker: how many of its server instances ran, and behind that when it was not
// running itself.

import { ask } from "./ask.js";
import { Stream } from "./stream.js";

const REDRAW_MS = 30_000;
const HEIGHT = 170;

const place = document.getElementById("day");
let plot;
let shades = [];

async function load() {
  const answer = await ask(place.dataset.from);
  if (!answer) return;
  const day = JSON.parse(answer);
  shades = day.statuses
    .map(([since, what], at, all) => ({ since, until: all[at + 1]?.[0] ?? day.ends, what }))
    .filter(({ what }) => what !== "RUNNING")
    .concat(day.blind.map(([since, until]) => ({ since, until, what: "blind" })));
  const times = day.servers.map(([at]) => at);
  const counts = day.servers.map(([, running]) => running);
  times.push(day.ends);
  counts.push(counts.at(-1));
  if (plot) plot.setData([times, counts], false);
  else plot = draw([times, counts]);
  plot.setScale("x", { min: day.begins, max: day.ends });
}

function draw(data) {
  const style = getComputedStyle(place);
  const colour = (name) => style.getPropertyValue(name).trim();
  const grid = { stroke: colour("--line"), width: 1 };
  const axis = { stroke: colour("--dim"), grid, ticks: { show: false } };
  const options = {
    width: place.clientWidth,
    height: HEIGHT,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    legend: { show: false },
    cursor: { drag: { x: false, y: false } },
    scales: { y: { range: (_, __, most) => [0, Math.max(1, most * 1.15)] } },
    axes: [
      { ...axis, size: 30, values: "{HH}:{mm}" },
      { ...axis, size: 40, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] },
    ],
    series: [
      {},
      {
        stroke: colour("--line-of-plot"),
        width: 1.5,
        paths: uPlot.paths.stepped({ align: 1 }),
        points: { show: false },
      },
    ],
    hooks: { drawClear: [(self) => shade(self, colour)] },
  };
  return new uPlot(options, data, place);
}

function shade(self, colour) {
  const { ctx: context, bbox } = self;
  context.save();
  context.font = `600 ${11 * devicePixelRatio}px ${getComputedStyle(place).fontFamily}`;
  for (const { since, until, what } of shades) {
    const left = Math.max(bbox.left, self.valToPos(since, "x", true));
    const width = Math.max(2 * devicePixelRatio, self.valToPos(until, "x", true) - left);
    context.globalAlpha = 0.25;
    context.fillStyle = colour(what === "LOST" ? "--unhealthy" : "--unknown");
    context.fillRect(left, bbox.top, width, bbox.height);
    context.globalAlpha = 1;
    context.fillStyle = colour("--text");
    if (context.measureText(what).width + 8 < width) {
      context.fillText(what, left + 4, bbox.top + 14 * devicePixelRatio);
    }
  }
  context.restore();
}

const shown = () => document.getElementById("worker").dataset;
const stream = new Stream(`worker_id=${shown().id}`, renew, renew);
const watch = () => stream.open(shown().position);

function renew() {
  htmx.trigger("#worker", "renew");
  load();
}

load();
watch();
setInterval(() => document.hidden || load(), REDRAW_MS);
document.addEventListener("htmx:afterSwap", watch);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  renew();
  watch();
});
new ResizeObserver(() => {
  plot?.setSize({ width: place.clientWidth, height: HEIGHT });
}).observe(place);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  plot?.destroy();
  plot = undefined;
  load();
});
